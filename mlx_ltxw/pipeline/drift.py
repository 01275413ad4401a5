"""How far an unlocked adapter moves the picture: the same clip denoised without it, and the differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_ltxw.pipeline.decode import decode_video
from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.given import NO_MATERIAL, Material, conditions
from mlx_ltxw.pipeline.latents import Latents, NoiseSource, noise
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.pipeline.run import steps, transformers


@dataclass(frozen=True)
class Drift:
    """The change an adapter makes to one clip.

    Attributes:
        seed: The clip's random seed.
        video, audio: Relative L2 change of the latents.
        psnr: Of the decoded picture against that without the adapter, dB; infinite when equal.
    """

    seed: int
    video: float
    audio: float
    psnr: float


def drift(
    job: Plan,
    made: dict[int, Latents],
    networks: Networks,
    follow: Callable[[Step], object] = lambda _: None,
    noise_source: NoiseSource = noise,
    material: Material = NO_MATERIAL,
) -> Iterator[Drift]:
    """Denoises the job's clips without its adapters and compares.

    Args:
        job: As it was run, with a picture of its own making.
        made: Its final latents by seed.
        networks: Of that run, which remember the text contexts.
        follow: Gets each step without the adapters.
        noise_source: Where that run's noise came from.
        material: What that run was given.
    """
    plain = job.without_adapters()
    contexts = networks.contexts(job.prompts, job.cache)
    given = conditions(plain, networks, material)
    models, base = transformers(plain, networks), {}
    for seed in made:
        for step in steps(plain, models, contexts, seed, given, noise_source):
            base[seed] = step.latents
            follow(step)
    del models
    mx.clear_cache()
    for seed, ours in made.items():
        theirs = base[seed]
        psnr = _psnr(_frames(job, networks, ours), _frames(job, networks, theirs))
        assert ours.video is not None
        assert theirs.video is not None
        yield Drift(seed, _change(ours.video, theirs.video), _change(ours.sound, theirs.sound), psnr)


def _frames(job: Plan, networks: Networks, latents: Latents) -> Iterator[np.ndarray]:
    assert latents.video is not None
    return decode_video(networks, latents.video, job.geometry)


def _change(ours: mx.array, base: mx.array) -> float:
    return float(np.asarray(mx.linalg.norm(ours - base) / mx.linalg.norm(base)))


def _psnr(ours: Iterator[np.ndarray], base: Iterator[np.ndarray]) -> float:
    total, count = 0.0, 0
    for one, other in zip(ours, base, strict=True):
        total += float(((one.astype(np.float32) - other) ** 2).sum(dtype=np.float64))
        count += one.size
    return float("inf") if total == 0 else 10 * float(np.log10(255**2 * count / total))
