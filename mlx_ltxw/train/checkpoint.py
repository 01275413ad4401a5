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
_FOLDER = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Origin:
    """What a state belongs to.

    Attributes:
        config: Options of the run.
        base: Of the model: sha256 of its sources.
        data: Of the clips: their keys' sha256.
        paths: Of the adapted linears.
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


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:06d}"


def save(run: Path, state: State, layout: Layout, origin: Origin) -> Path:
    """Writes a checkpoint, then removes the oldest beyond `keep_checkpoints`.

    Returns:
        Its folder.

    Raises:
        UserError: the folder cannot be written, or a number of the adapter is not finite.
    """
    folder = folder_of(run, state.step)
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    export(layout.adapter(state.parameters, f"step {state.step}"), "comfyui", folder / "adapter.safetensors")
    tensors = {"parameters": state.parameters, "first": state.first, "second": state.second}
    save_arrays(folder / "state.safetensors", tensors, {"training": origin.to_json(state.step)})
    for step in saved_steps(run)[: -origin.config.keep_checkpoints]:
        (folder_of(run, step) / "state.safetensors").unlink()
        shutil.rmtree(folder_of(run, step))
    return folder


def saved_steps(run: Path) -> list[int]:
    """Steps of the whole checkpoints, in order."""
    found = [(path, _FOLDER.fullmatch(path.name)) for path in (run / "checkpoints").glob("step-*")]
    return sorted(int(match[1]) for path, match in found if match and (path / "state.safetensors").is_file())


def saved_config(run: Path) -> TrainConfig | None:
    """The options of the newest checkpoint; None when there is none."""
    steps = saved_steps(run)
    return read_config(base=_training(run, steps[-1])[1]["config"]) if steps else None


def restore(run: Path, origin: Origin) -> State | None:
    """The newest checkpoint's state; None when there is none.

    Raises:
        UserError: it belongs to other options, another model or other data.
    """
    steps = saved_steps(run)
    if not steps:
        return None
    tensors, training = _training(run, steps[-1])
    hint = "Resume with what the run began with, or start a new one in another folder."
    before = read_config(base=training["config"])
    if names := changed(before, origin.config):
        told = ", ".join(f"{name} {getattr(before, name)} to {getattr(origin.config, name)}" for name in names)
        raise UserError(f"The run in {run} cannot be resumed with other options ({told}).", hint)
    for name, what in (("base", "another model"), ("data", "other clips or captions"), ("paths", "other modules")):
        ours = getattr(origin, name)
        if training[name] != (list(ours) if isinstance(ours, tuple) else ours):
            raise UserError(f"The run in {run} was trained on {what}.", hint)
    state = State(training["step"], tensors["parameters"], tensors["first"], tensors["second"])
    mx.eval(state.parameters, state.first, state.second)
    return state


@dataclass(frozen=True)
class _Record:
    """What a state's metadata holds beside its arrays."""

    format: int
    step: int
    config: dict[str, Any]
    base: str
    data: str
    paths: list[str]


def _training(run: Path, step: int) -> tuple[dict[str, mx.array], dict[str, Any]]:
    file = folder_of(run, step) / "state.safetensors"
    hint = f"Remove {file.parent} to go on from the one before it."
    try:
        header = read_header(file)
        header.check_complete()
    except UserError as error:
        raise UserError(f"The checkpoint {file} cannot be read: {error.message}", hint) from error
    text = header.metadata.get("training", "null")
    record = build(_Record, parse_json(text, f"The record in {file}", hint), f"The record in {file}", hint)
    if record.format != FORMAT:
        raise UserError(f"The checkpoint {file} has the format {record.format}, not {FORMAT}.", hint)
    try:
        tensors: Any = mx.load(str(file))
    except RuntimeError as error:
        raise UserError(f"The checkpoint {file} cannot be read ({error}).", hint) from error
    if missing := {"parameters", "first", "second"} - tensors.keys():
        raise UserError(f"The checkpoint {file} lacks {' and '.join(sorted(missing))}.", hint)
    return tensors, vars(record)
