"""How far an unlocked adapter moves the picture: the same run once more without it, and the differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_ltxw.pipeline.denoise import Latents
from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.run import Plan, decode_video, run


@dataclass(frozen=True)
class Drift:
    """The change an adapter makes to one clip.

    Attributes:
        seed: Of the clip.
        video, audio: Relative L2 change of the latents.
        psnr: Of the decoded picture against that without the adapter, dB; infinite when equal.
    """

    seed: int
    video: float
    audio: float
    psnr: float


def drift(job: Plan, made: dict[int, Latents], follow: Callable[[Step], object] = lambda _: None) -> Iterator[Drift]:
    """Runs the job without its adapters and compares.

    Args:
        job: As it was run, with a picture of its own making.
        made: Its final latents by seed.
        follow: Gets each step of the second run.
    """
    plain = dataclasses.replace(
        job,
        settings=dataclasses.replace(job.settings, adapters=(), register_at=None),
        adapters=dataclasses.replace(job.adapters, adapters=[], placements=(), summaries=()),
    )
    base: dict[int, Latents] = {}
    for event in run(plain):
        if isinstance(event, Step):
            base[event.seed] = event.latents
            follow(event)
            if len(base) == len(made) and event.index == event.total:
                break  # its picture is decoded beside the other, below
    for seed, ours in made.items():
        theirs = base[seed]
        assert ours.video is not None
        assert theirs.video is not None
        psnr = _psnr(decode_video(job, ours.video), decode_video(job, theirs.video))
        yield Drift(seed, _change(ours.video, theirs.video), _change(ours.heard, theirs.heard), psnr)


def _change(ours: mx.array, base: mx.array) -> float:
    return float(np.asarray(mx.linalg.norm(ours - base) / mx.linalg.norm(base)))


def _psnr(ours: Iterator[np.ndarray], base: Iterator[np.ndarray]) -> float:
    total, count = 0.0, 0
    for one, other in zip(ours, base, strict=True):
        total += float(((one.astype(np.float32) - other) ** 2).sum(dtype=np.float64))
        count += one.size
    return float("inf") if total == 0 else 10 * float(np.log10(255**2 * count / total))
