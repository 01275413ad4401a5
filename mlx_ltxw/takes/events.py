"""What making files tells its caller, beside the events of the run (`mlx_ltxw.pipeline.events`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlx_ltxw.media.measure import Measurement
from mlx_ltxw.pipeline.events import Adapted, Conditioned, Resumed, Step
from mlx_ltxw.takes.ranking import RankedTake


@dataclass(frozen=True)
class Decoding:
    """Some frames of a clip are decoded and written.

    Attributes:
        seed: The clip's random seed.
        done, total: Frames.
    """

    seed: int
    done: int
    total: int


@dataclass(frozen=True)
class Note:
    """Something to know about what is kept of a run.

    Attributes:
        text: A sentence.
    """

    text: str


@dataclass(frozen=True)
class Suspect:
    """Something is wrong with a clip, told before its files are there.

    Attributes:
        seed: The clip's random seed.
        notes: A sentence for each thing, and what to do.
    """

    seed: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """One clip's files are there, each whole.

    Attributes:
        seed: The clip's random seed.
        files: The main one first; empty for a part of a script, which is on its way into the whole.
        measurement: Of its sound; None for what is put together of sounds that were measured: a script, a clip of
            several tracks.
        peak_memory: Bytes.
        take: Its number, from 1; None in a run without takes.
        span: The seconds that the measurement is of, where a stretch of the sound was made anew; None for all of it.
    """

    seed: int
    files: tuple[Path, ...]
    measurement: Measurement | None
    peak_memory: int
    take: int | None = None
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Previewed:
    """What a step predicts is there to be looked at.

    Attributes:
        seed: The clip's random seed.
        index, total: The step, from 1.
        files: A picture of its first frame, and its sound; the next ones take their place.
    """

    seed: int
    index: int
    total: int
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Ranked:
    """All takes of a clip are made.

    Attributes:
        seed: The clip's random seed.
        takes: Best first.
    """

    seed: int
    takes: tuple[RankedTake, ...]


@dataclass(frozen=True)
class PartBegun:
    """One part of a script is next.

    Attributes:
        number, total: From 1.
        prompt: What the part shows and says.
        seed: The part's random seed.
        kept: Whether it is there from an earlier run, and is not made again.
    """

    number: int
    total: int
    prompt: str
    seed: int
    kept: bool


TakeEvent = (
    Conditioned | Adapted | Resumed | Step | Note | Decoding | Suspect | Written | Previewed | Ranked | PartBegun
)
"""Every event of `make` and `make_script`."""
