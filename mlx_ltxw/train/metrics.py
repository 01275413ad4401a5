"""`metrics.jsonl` of a run: one line a step; and trackio, when asked for."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_bytes, write_bytes, write_errors
from mlx_ltxw.parsing import Unsound, load_json, sound
from mlx_ltxw.train.config import TrainConfig

NAME = "metrics.jsonl"
_LARGEST = 1 << 30  # bytes; some millions of steps


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines written so far, in the order of their steps; what a crash cut short or others wrote is left out.

    Raises:
        UserError: the file cannot be read, or is no plain file.
    """
    path = run / NAME
    if not path.exists():
        return []
    kept: dict[int, dict[str, Any]] = {}
    for raw in read_bytes(path, _LARGEST).splitlines():
        try:
            line = sound(load_json(raw))
        except Unsound:
            continue
        if isinstance(line, dict) and _counts(line.get("step")) and all(map(_is_number, line.values())):
            kept[line["step"]] = line
    return [kept[step] for step in sorted(kept) if "audio_loss" in kept[step]]


def _counts(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_trackio() -> None:
    """Refuses a run that would log to a package that is not there.

    Raises:
        UserError: trackio is not installed.
    """
    if sys.modules.get("trackio", True) is None or importlib.util.find_spec("trackio") is None:
        raise UserError("trackio is not installed.", "Install mlx-ltxw[track], or leave trackio out.")


class Metrics:
    """Writes the lines.

    Args:
        run: Folder of the run.
        config: Its options.
        step: Steps done: lines of later ones, from a run that was cut, are removed.

    Raises:
        UserError: trackio is asked for and not installed.
    """

    def __init__(self, run: Path, config: TrainConfig, step: int) -> None:
        self.path = run / NAME
        self.lines = [line for line in read_metrics(run) if line["step"] <= step]
        write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in self.lines).encode())
        self._tracker = _trackio(run, config) if config.trackio else None

    def add(self, line: dict[str, Any]) -> None:
        """Writes one step."""
        self.lines.append(line)
        with write_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._tracker is not None:
            self._tracker.log({name: value for name, value in line.items() if name != "step"}, step=line["step"])

    def close(self) -> None:
        """Ends the run at trackio."""
        if self._tracker is not None:
            self._tracker.finish()


def _trackio(run: Path, config: TrainConfig) -> Any:
    check_trackio()
    trackio = importlib.import_module("trackio")
    trackio.init(project="mlx-ltxw", name=run.resolve().name, config=config.to_dict(), resume="allow")
    return trackio
