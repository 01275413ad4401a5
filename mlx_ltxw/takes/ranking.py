"""Takes in the order in which they are worth a listen: the register that was asked for, loudness, speech rate."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_ltxw.media.measure import NO_SPEECH, Measurement
from mlx_ltxw.pipeline.takes import PlannedTake
from mlx_ltxw.prompts.registers import parse

_LOUDNESS = 3.0
"""dB that count as no difference."""


@dataclass(frozen=True)
class RankedTake:
    """One take's place.

    Attributes:
        number: From 1, in the order they were asked for.
        spec: What was asked for.
        asked: The register that its prompt and adapters ask for; None where they do not say.
        measurement: Of its sound.
    """

    number: int
    spec: str
    asked: str | None
    measurement: Measurement

    @property
    def as_asked(self) -> bool:
        """Whether it is what was asked for, as far as anything was: at least speech."""
        heard = self.measurement.register
        return heard == self.asked if self.asked else heard != NO_SPEECH


def asked_register(take: PlannedTake) -> str | None:
    """`whispering`, `soft` or `normal`; None where an adapter meets a prompt that names no manner of its own."""
    if not take.adapters:
        return "normal"
    found = {turn.register for turn in parse(take.prompt).turns if turn.manner}
    return found.pop() if len(found) == 1 else None


def ranked(takes: Sequence[PlannedTake], measurements: Sequence[Measurement]) -> list[RankedTake]:
    """Takes, best first: those of the register asked for before the others, the surer it is heard the earlier; then the
    louder by steps of 3 dB, since little of a loud whisper is lost in the noise; then the nearer the speech rate is to
    the median of all, since a line that is swallowed or drawn out lies far from it."""
    rows = [
        RankedTake(number, take.spec, asked_register(take), found)
        for number, (take, found) in enumerate(zip(takes, measurements, strict=True), 1)
    ]
    usual = statistics.median(row.measurement.rate for row in rows)

    def key(row: RankedTake) -> tuple[bool, float, float, float]:
        found = row.measurement
        sure = found.confidence if row.as_asked else -found.confidence
        return not row.as_asked, -round(sure, 1), -round(found.lufs / _LOUDNESS), abs(found.rate - usual)

    return sorted(rows, key=key)
