"""`metrics.jsonl` of a run: one line a step; and trackio, when asked for."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import write_bytes, write_errors
from mlx_ltxw.train.config import TrainConfig

NAME = "metrics.jsonl"


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines written so far; what a crash cut short is left out."""
    try:
        lines = (run / NAME).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    kept = []
    for line in lines:
        try:
            kept.append(json.loads(line))
        except ValueError:
            break
    return kept


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
    try:
        trackio = importlib.import_module("trackio")
    except ImportError as error:
        raise UserError("trackio is not installed.", "Install mlx-ltxw[track], or leave trackio out.") from error
    trackio.init(project="mlx-ltxw", name=run.resolve().name, config=config.to_dict(), resume="allow")
    return trackio
