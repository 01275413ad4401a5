"""Training runs of the studio: what a page is told of one, and which adapters are finished.

A run is a folder in the studio's `runs`, the very one that `mlx-ltxw train -o` writes and `--resume` goes on with.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError, spelled
from mlx_ltxw.studio import texts_train as texts
from mlx_ltxw.studio.folder import StudioFolder, plain_name
from mlx_ltxw.train.charts import smoothed, thinned
from mlx_ltxw.train.checkpoint import saved_steps
from mlx_ltxw.train.config import read_config
from mlx_ltxw.train.metrics import read_metrics
from mlx_ltxw.train.preview import all_samples, samples_folder
from mlx_ltxw.train.record import ADAPTER, RunArguments, read_run

_NAME = re.compile(r"\w[\w.-]{0,79}")
_KEEP = 0.95  # of the running mean, as the run's own page has it
_RECORD = "run.json"


@dataclass(frozen=True)
class TrainAsked:
    """What a training job asks for, as it is kept.

    Attributes:
        run: Name of the run.
        settings: Training options, `key=value`.
        data, model, speaker, manner, scene, audio_only: As `RunArguments` has them; None where the run is gone on with.
    """

    run: str
    settings: tuple[str, ...] = ()
    data: str | None = None
    model: str | None = None
    speaker: str | None = None
    manner: str | None = None
    scene: str | None = None
    audio_only: bool = False

    @property
    def given(self) -> RunArguments:
        return RunArguments(
            self.data, self.model, None, self.speaker or None, self.manner or None, self.scene or None,
            audio_only=self.audio_only,
        )  # fmt: skip


def run_folder(folder: StudioFolder, name: str) -> Path:
    """Where a run lies, or will.

    Raises:
        UserError: the name is none.
    """
    if not _NAME.fullmatch(name) or name.endswith("."):
        message, hint = texts.BAD_NAME
        raise UserError(message.format(name=repr(name)), hint)
    return plain_name(folder.runs, name)


def run_names(folder: StudioFolder) -> list[str]:
    """The runs that were begun, the last first."""
    found = [path for path in folder.runs.iterdir() if (path / _RECORD).is_file() and _NAME.fullmatch(path.name)]
    return [path.name for path in sorted(found, key=lambda path: (path / _RECORD).stat().st_mtime, reverse=True)]


def finished_adapters(folder: StudioFolder) -> dict[str, str]:
    """Name of a finished run -> the file of its adapter."""
    files = {name: folder.runs / name / ADAPTER for name in run_names(folder)}
    return {name: str(file) for name, file in files.items() if file.is_file()}


def check_new(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """Looks over a new run before it is put into the queue.

    Raises:
        UserError: its name or an option will not do.
    """
    asked = asked_of(values)
    run = run_folder(folder, asked.run)
    if run.exists():
        message, hint = texts.NAME_TAKEN
        raise UserError(message.format(name=asked.run), hint)
    try:
        read_config(settings=asked.settings)
    except UserError as error:
        raise error.spelled(texts.spelling) from error
    return {"run": asked.run}


def asked_of(values: dict[str, Any]) -> TrainAsked:
    """From JSON, strictly.

    Raises:
        UserError: it is none.
    """
    from mlx_ltxw.parsing import build

    return build(TrainAsked, values, "The training job", "Fill the page in again.")


def about_run(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """What a page shows of a run.

    Raises:
        UserError: there is none of that name, or its record is damaged.
    """
    run = run_folder(folder, str(values["run"]))
    record = read_run(run)
    lines = read_metrics(run)
    losses = [(float(line["step"]), float(line["audio_loss"])) for line in lines]
    held_out = [(float(line["step"]), float(line["held_out_loss"])) for line in lines if "held_out_loss" in line]
    samples = [
        {"step": one.step, "number": int(one.wav.partition(".")[0]), "prompt": one.prompt, "register": one.register}
        for one in all_samples(run)
    ]
    return {
        "run": run.name,
        "steps": record.config.steps,
        "step": int(losses[-1][0]) if losses else 0,
        "saved": max(saved_steps(run), default=0),
        "finished": (run / ADAPTER).is_file(),
        "adapter": str(run / ADAPTER),
        "data": record.given.data,
        "model": record.given.model,
        "losses": thinned(losses),
        "mean": thinned(smoothed(losses, _KEEP)),
        "held_out": thinned(held_out),
        "samples": samples,
        "findings": _findings(run),
    }


def _findings(run: Path) -> int:
    """How many the data check had; 0 where it did not come so far."""
    try:
        return len(json.loads((run / "data.json").read_bytes())["findings"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def sample_file(folder: StudioFolder, name: str, step: int, number: int) -> Path:
    """The sound of a listening sample.

    Raises:
        UserError: there is none.
    """
    path = samples_folder(run_folder(folder, name), step) / f"{number}.wav"
    if not path.is_file():
        raise UserError(f"There is no such sample of {name}.", "Open the run again.")
    return path


def plain(text: str) -> str:
    """A sentence of the training room as this page says it."""
    return spelled(text, texts.spelling)
