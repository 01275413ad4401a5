"""How long a run will take, from how long its like took on this machine: seconds a token of a step, kept in a file.

What a rate holds for is in its key: the machine and its backend, the model's geometry and precision, how many of its
blocks are read from disk, passes and adapted sounds. Tokens are not, so that a rate holds for clips of other sizes;
attention, which grows with their square, makes a much larger clip take longer than is said. A file that cannot be read
or written, or says nonsense, is as if it were not there.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import write_text
from mlx_ltxw.machine import Machine, device_name
from mlx_ltxw.parsing import load_json
from mlx_ltxw.pipeline.budget import Budget
from mlx_ltxw.pipeline.guidance import passes
from mlx_ltxw.pipeline.recipes import Stage
from mlx_ltxw.pipeline.work import Work
from mlx_ltxw.weights.dtype import name_of

NAME = "pace.json"
_MOST = 200
"""Rates that are kept; the oldest go first."""
_LARGEST = 1 << 20
"""Bytes of a file that is read."""


class Pace:
    """The rates of this machine.

    Args:
        folder: Where they are kept; None for nowhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = None if folder is None else folder / NAME

    def seconds(self, work: str, stage: Stage) -> float | None:
        """Of a step of a stage; None where nothing like it has run here.

        Args:
            work: From `key`.
            stage: Of the run.
        """
        rate = self._rates().get(work)
        return None if rate is None else rate * _tokens(stage)

    def note(self, work: str, stage: Stage, seconds: Sequence[float]) -> None:
        """Keeps what a stage's steps took; the first of a process is left out where there are others, for it loads.

        Args:
            work: From `key`.
            stage: Of the run.
            seconds: Of each step.
        """
        taken = [one for one in seconds[1:] or seconds if math.isfinite(one) and one > 0]
        if self._file is None or not taken:
            return
        rates = self._rates()
        rates.pop(work, None)
        rates[work] = statistics.median(taken) / _tokens(stage)
        kept = dict([*rates.items()][-_MOST:])
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._file, json.dumps(kept, indent=1) + "\n")
        except (OSError, UserError):  # a full disk, or a folder that is none: the clip matters
            return

    def _rates(self) -> dict[str, float]:
        if self._file is None:
            return {}
        try:
            if self._file.stat().st_size > _LARGEST:
                return {}
            found: Any = load_json(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {
            work: float(rate)
            for work, rate in found.items()
            if isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < 1e3
        }


def key(work: Work, stage: Stage, budget: Budget, machine: Machine, split: tuple[str, int]) -> str:
    """Of what a rate holds for.

    Args:
        work: What is made.
        stage: Of the run.
        budget: Says how many blocks are read anew.
        machine: Where.
        split: How several machines make it, and how many.
    """
    packed, config = work.model.quantized_layers("transformer"), work.model.network_config("transformer")
    facts = [
        platform.node(), machine.backend, device_name(), repr(config), name_of(work.dtype), work.audio_only,
        repr(next(iter(packed.values()), None)), budget.residency.layers, work.sounds, *split,
        len(passes(stage.video_guidance, stage.audio_guidance, config.layers)),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:24]


def _tokens(stage: Stage) -> int:
    return stage.geometry.video_tokens + stage.geometry.audio_tokens
