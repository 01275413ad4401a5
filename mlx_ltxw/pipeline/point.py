"""Where a clip's denoising stands, so that another process goes on from there and makes the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlx_ltxw.pipeline.latents import Latents


@dataclass(frozen=True)
class ResumePoint:
    """All that the steps after one depend on; noise follows from the seed and a step's number.

    Attributes:
        index: Steps done, of all stages.
        latents: Inside of a stage its whole state, with the tokens that were appended; at its end what the next stage
            begins from, or what is decoded.
        sounds: Inside of a stage that does not finish the sound, those of the stage before, without a video.
    """

    index: int
    latents: Latents
    sounds: Latents | None = None


@dataclass(frozen=True)
class DoneBefore:
    """What of a run is done already.

    Attributes:
        points: Of clips that were begun, by seed.
        done: Seeds of the clips that are finished, and are not made again.
    """

    points: Mapping[int, ResumePoint] = field(default_factory=dict)
    done: frozenset[int] = frozenset()


NOTHING_DONE = DoneBefore()
