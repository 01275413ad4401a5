"""Checkpoints from which a run goes on to the bit.

`checkpoints/step-000250/` holds `adapter.safetensors`, which `generate` can use, and `state.safetensors`: the adapter's
numbers as they are trained, the optimizer's moments, the step, the options, and what model and data they belong to. The
state is written last and renamed into place, so a folder with a state is whole. Learning rate, noise and the order of
the data follow from the options and the step, so these are stored by storing the two.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_ltxw.adapter.export import export
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import write_errors
from mlx_ltxw.parsing import build, parse_json
from mlx_ltxw.train.config import TrainConfig, changed, read_config
from mlx_ltxw.train.gradient.layout import Layout
from mlx_ltxw.train.gradient.optimizer import State
from mlx_ltxw.weights.header import read_header
from mlx_ltxw.weights.saving import save_arrays

FORMAT = 1
_SAME = "Resume with what the run began with, or start a new one in another folder."
_FOLDER = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Origin:
    """What a state belongs to.

    Attributes:
        config: Options of the run.
        base: Of the model: sha256 of its sources.
        data: sha256 over the keys of all clips.
        paths: Official names of the adapted linears, sorted.
    """

    config: TrainConfig
    base: str
    data: str
    paths: tuple[str, ...]

    def to_json(self, step: int) -> str:
        return json.dumps({
            "format": FORMAT, "step": step, "config": self.config.to_dict(), "base": self.base, "data": self.data,
            "paths": list(self.paths),
        })  # fmt: skip


@dataclass(frozen=True)
class _Training:
    """The record in a state file; see `Origin`."""

    format: int
    step: int
    config: dict[str, Any]
    base: str
    data: str
    paths: tuple[str, ...]


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:06d}"


def save(run: Path, state: State, layout: Layout, origin: Origin) -> Path:
    """Writes a checkpoint, then removes the oldest beyond `keep_checkpoints`.

    Returns:
        Its folder.

    Raises:
        UserError: the folder cannot be written, or a number of the adapter is not finite.
    """
    folder = checkpoint_folder(run, state.step)
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    export(layout.adapter(state.parameters, f"step {state.step}"), "comfyui", folder / "adapter.safetensors")
    tensors = {"parameters": state.parameters, "first": state.first, "second": state.second}
    save_arrays(folder / "state.safetensors", tensors, {"training": origin.to_json(state.step)})
    with write_errors(folder):
        for step in saved_steps(run)[: -origin.config.keep_checkpoints]:
            _file(run, step).unlink()  # first: a folder with a state is whole
            shutil.rmtree(checkpoint_folder(run, step))
    return folder


def saved_steps(run: Path) -> list[int]:
    """Steps of the whole checkpoints, in order."""
    found = [(path, _FOLDER.fullmatch(path.name)) for path in (run / "checkpoints").glob("step-*")]
    return sorted(int(match[1]) for path, match in found if match and (path / "state.safetensors").is_file())


def saved_config(run: Path) -> TrainConfig | None:
    """The options of the newest checkpoint; None when there is none."""
    steps = saved_steps(run)
    return read_config(base=_training(run, steps[-1]).config) if steps else None


def restore(run: Path, origin: Origin, size: int) -> State | None:
    """The newest checkpoint's state; None when there is none.

    Args:
        run: Folder of the run.
        origin: What it must belong to.
        size: Numbers of the adapter.

    Raises:
        UserError: it belongs to other options, another model or other data, or it is damaged.
    """
    steps = saved_steps(run)
    if not steps:
        return None
    training = _training(run, steps[-1])
    check_options(run, read_config(base=training.config), origin.config)
    for name, what in (("base", "another model"), ("data", "other clips or captions"), ("paths", "other modules")):
        if getattr(training, name) != getattr(origin, name):
            raise UserError(f"The run in {run} was trained on {what}.", _SAME)
    return State(training.step, *_vectors(_file(run, steps[-1]), size))


def check_options(run: Path, before: TrainConfig, now: TrainConfig) -> None:
    """Refuses to go on with options that would make another adapter, or fewer steps than are done.

    Raises:
        UserError: names them.
    """
    if names := changed(before, now):
        differences = ", ".join(f"{name} {getattr(before, name)} to {getattr(now, name)}" for name in names)
        raise UserError(f"The run in {run} cannot be resumed with other options ({differences}).", _SAME)
    if (done := max(saved_steps(run), default=0)) > now.steps:
        raise UserError(
            f"The run in {run} has done {done} steps, more than {now.steps}.", "Give {field:steps} more, or leave it."
        )


def _file(run: Path, step: int) -> Path:
    return checkpoint_folder(run, step) / "state.safetensors"


def _training(run: Path, step: int) -> _Training:
    """What a state file says of itself."""
    file = _file(run, step)
    try:
        header = read_header(file)
        header.check_complete()
        text = header.metadata.get("training")
        if text is None:
            raise UserError("It holds no training state.", "")
        training = build(_Training, parse_json(text, "The record"), "The record")
        if training.format != FORMAT or training.step != step:
            raise UserError(f"It is of format {training.format} and step {training.step}.", "")
    except UserError as error:
        raise _unreadable(file, error.message) from error
    return training


def _vectors(file: Path, size: int) -> list[mx.array]:
    """The parameters and the two moments, (size,) fp32 each."""
    tensors = read_header(file).tensors
    names = ("parameters", "first", "second")
    if any(name not in tensors or tensors[name].shape != (size,) or tensors[name].dtype != "F32" for name in names):
        raise _unreadable(file, f"it does not hold {', '.join(names)} of {size:,} numbers each.")
    loaded: Any = mx.load(str(file))
    vectors = [loaded[name] for name in names]
    if not all(mx.isfinite(vector).all().item() for vector in vectors):
        raise _unreadable(file, "it holds numbers that are not finite.")
    return vectors


def _unreadable(file: Path, why: str) -> UserError:
    return UserError(
        f"The checkpoint {file} cannot be read: {why}", f"Remove {file.parent} to go on from the one before it."
    )
