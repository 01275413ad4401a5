"""Training runs of the studio: their names, their files, and which adapters are finished. Loads no MLX.

A run is a folder in the studio's `runs`, the very one that `mlx-ltxw train -o` writes and `--resume` goes on with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.parsing import build
from mlx_ltxw.studio import texts_train as texts
from mlx_ltxw.studio.folder import StudioFolder, plain_name

ADAPTER, RECORD = "adapter.safetensors", "run.json"
"""Names in a run's folder."""

_NAME = re.compile(r"\w[\w.-]{0,79}", re.ASCII)


@dataclass(frozen=True)
class TrainAsked:
    """What a training job asks for, as it is kept.

    Attributes:
        run: Name of the run.
        settings: Training options, `key=value`.
        data, model, speaker, manner, scene, audio_only: As `mlx-ltxw train` is told them; None, and False, where
            nothing is said or the run is gone on with.
    """

    run: str
    settings: tuple[str, ...] = ()
    data: str | None = None
    model: str | None = None
    speaker: str | None = None
    manner: str | None = None
    scene: str | None = None
    audio_only: bool = False


def asked_of(values: dict[str, Any]) -> TrainAsked:
    """From JSON, strictly.

    Raises:
        UserError: it is none.
    """
    return build(TrainAsked, values, "The training job", "Fill the page in again.")


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
    found = [path for path in folder.runs.iterdir() if (path / RECORD).is_file() and _NAME.fullmatch(path.name)]
    return [path.name for path in sorted(found, key=lambda path: (path / RECORD).stat().st_mtime, reverse=True)]


def finished_adapters(folder: StudioFolder) -> dict[str, str]:
    """Name of a finished run -> the file of its adapter."""
    files = {name: folder.runs / name / ADAPTER for name in run_names(folder)}
    return {name: str(file) for name, file in files.items() if file.is_file()}


def sample_file(folder: StudioFolder, name: str, step: int, number: int) -> Path:
    """The sound of a listening sample.

    Raises:
        UserError: there is none.
    """
    path = run_folder(folder, name) / "samples" / f"step-{step:06d}" / f"{number}.wav"
    if not path.is_file():
        raise UserError(f"There is no such sample of {name}.", "Open the run again.")
    return path
