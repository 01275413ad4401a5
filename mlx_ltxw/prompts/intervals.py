"""Strength in time: `--register-at 0-2=whispering,2-4=normal` as a strength for each token. Experimental."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.parsing import finite_number

STRENGTHS = {"whispering": 1.0, "soft": 0.5, "normal": 0.0}
"""A register's share of the adapter: all, half, none. Half is a starting point, not a measured value."""

EDGE = 0.2
"""Seconds that a change of strength takes: five audio tokens of 40 ms."""

_ITEM = re.compile(r"\s*([\d.]+)\s*-\s*([\d.]+)\s*=\s*([\w.]+)\s*")


@dataclass(frozen=True)
class Interval:
    """A stretch of time at one strength.

    Attributes:
        start, end: Seconds.
        strength: Factor on the adapter.
    """

    start: float
    end: float
    strength: float


def parse_intervals(text: str) -> list[Interval]:
    """Reads `0-2=whispering,2-4=normal`; a number may stand for a register.

    The stretches begin at 0 and follow each other without gap or overlap, so that no moment is left to chance; the last
    one holds to the clip's end.

    Raises:
        UserError: anything else.
    """
    intervals: list[Interval] = []
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        bounds = [finite_number(match[1]), finite_number(match[2]), _strength(match[3])] if match else [None] * 3
        start, end, strength = bounds
        if start is None or end is None or strength is None:
            raise UserError(
                f"'{item.strip()}' is no stretch of time with a register.",
                "Write seconds and whispering, soft, normal or a number: 0-2=whispering,2-4=normal.",
            )
        before = intervals[-1].end if intervals else 0.0
        if start != before or end <= start:
            raise UserError(
                f"The stretch '{item.strip()}' does not begin at {before:g} s, or is empty.",
                "Let the first begin at 0 and each other where the one before it ends.",
            )
        intervals.append(Interval(start, end, strength))
    return intervals


def gate(intervals: Sequence[Interval], times: np.ndarray, edge: float = EDGE) -> np.ndarray:
    """The adapter's strength at each token.

    Args:
        intervals: From `parse_intervals`.
        times: (T,) seconds, the middle of each token.
        edge: Seconds a change takes, a raised cosine centred on the boundary; 0 for a step.

    Returns:
        (T,) float32.
    """
    times = np.asarray(times, dtype=np.float64)
    result = np.full(times.shape, intervals[0].strength)
    for before, after in itertools.pairwise(intervals):
        since = times - after.start
        share = np.clip(since / edge + 0.5, 0, 1) if edge > 0 else (since >= 0).astype(np.float64)
        result += (after.strength - before.strength) * 0.5 * (1 - np.cos(np.pi * share))
    return result.astype(np.float32)


def _strength(text: str) -> float | None:
    return STRENGTHS[text] if text in STRENGTHS else finite_number(text)
