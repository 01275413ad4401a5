"""What a run tells its caller, in order: Conditioned; Adapted; for each seed its Steps; then for each seed Decoded.

A seed that goes on where another run was cut begins with Resumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mlx_ltxw.pipeline.latents import Latents
from mlx_ltxw.pipeline.point import ResumePoint


@dataclass(frozen=True)
class Conditioned:
    """The prompt is encoded; the text encoder is gone from memory.

    Attributes:
        seconds: Since the run began.
        peak_memory: Bytes.
        encoded: How many prompts were; 0 where all were known, from memory or from disk.
    """

    seconds: float
    peak_memory: int
    encoded: int


@dataclass(frozen=True)
class Adapted:
    """The adapters are in place.

    Attributes:
        notes: One line each: what was placed, and how it acts.
    """

    notes: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One denoising step is done.

    Attributes:
        seed: The clip's random seed.
        index, total: From 1.
        sigma: Noise level it started from.
        seconds: It took.
        peak_memory: Bytes.
        latents: The state after it, evaluated.
        clean: The finished latents as the step predicts them, evaluated.
        point: What another run needs to go on from here.
    """

    seed: int
    index: int
    total: int
    sigma: float
    seconds: float
    peak_memory: int
    latents: Latents
    clean: Latents
    point: ResumePoint


@dataclass(frozen=True)
class Resumed:
    """A clip goes on where another run was cut.

    Attributes:
        seed: The clip's random seed.
        index, total: Steps done already, of so many; where all are done, only decoding is left.
        latents: As the last of them left these.
    """

    seed: int
    index: int
    total: int
    latents: Latents


@dataclass(frozen=True)
class Decoded:
    """One clip is ready.

    Attributes:
        seed: The clip's random seed.
        video: Chunks of frames (f, H, W, 3) uint8, decoded as they are taken; take them before the next event. None
            where none is made.
        waveform: (N, 2) fp32 in [-1, 1].
        rate: Samples a second.
        seconds: Audio decoding took.
        peak_memory: Bytes.
        take: Its number, from 1; None in a run without takes. All takes' frames are the same.
    """

    seed: int
    video: Iterator[np.ndarray] | None
    waveform: np.ndarray
    rate: int
    seconds: float
    peak_memory: int
    take: int | None = None


Event = Conditioned | Adapted | Resumed | Step | Decoded
