"""Samplers: from noise to clean latents, given something that predicts clean latents.

Source: `ltx_pipelines/utils/samplers.py`, `utils/res2s.py`, `ltx_core/components/diffusion_steps.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlx_ltxw.pipeline.latents import Latents


class Predict(Protocol):
    """Predicts clean latents; all fp32, with what is given in its place."""

    def __call__(self, latents: Latents, sigma: float) -> Latents:
        """Noisy latents at a noise level -> clean ones."""

    def restore(self, clean: Latents, noisy: Latents, sigma: float) -> Latents:
        """What a sampler made of `noisy` at `sigma`, with what is given in its place."""


Fresh = Callable[[Latents, int], Latents]
"""`(latents, number of the draw from 0) -> unit noise of their shapes`; the same for the same number."""


def no_noise(latents: Latents, draw: int) -> Latents:
    """For a sampler that draws none."""
    raise RuntimeError("this sampler draws no noise")


Sampler = Callable[[Predict, Latents, np.ndarray, Fresh, int], Iterator[Latents]]
"""`(predict, latents, noise levels (steps + 1,), noise, steps done already) -> evaluated latents after each step`.

The latents are those at the first level, or as the last step that is done left them: nothing else goes from step to
step.
"""

LAST = 0.0011
"""The level that `res_2s` goes to in place of 0, whose logarithm it could not take; one more prediction ends it."""

_NOISE = 0.5  # eta: the share of the next level that is fresh noise
_ANCHORED = 0.5, 0.03  # steps shorter than this, from levels above that, move their anchor to where the noise fits


def euler(predict: Predict, latents: Latents, sigmas: np.ndarray, fresh: Fresh, done: int = 0) -> Iterator[Latents]:
    """Euler steps along the straight line to the predicted clean latents; one prediction a step, no noise."""
    for sigma, next_sigma in itertools.pairwise(map(float, sigmas[done:])):
        clean = predict(latents, sigma)
        ratio = (next_sigma - sigma) / sigma
        latents = latents.map(lambda x, x0, ratio=ratio: x + (x - x0) * ratio, clean)
        mx.eval(latents)
        yield latents


def res_2s(predict: Predict, latents: Latents, sigmas: np.ndarray, fresh: Fresh, done: int = 0) -> Iterator[Latents]:
    """Second-order exponential steps with fresh noise after each half: two predictions a step, and one at the end.

    Source: `res2s_audio_video_denoising_loop` (1.2.0). Its hundred rounds of anchor refinement are a contraction by
    less than a quarter each, whose limit is taken here at once. It accumulates in fp64, this in fp32.
    """
    levels = [float(sigma) for sigma in sigmas]
    ends = levels[-1] == 0
    levels = [*levels[:-1], LAST] if ends else levels
    for step, (sigma, next_sigma) in enumerate(itertools.pairwise(levels[done:]), done):
        noises = fresh(latents, 2 * step), fresh(latents, 2 * step + 1)
        latents = _res_2s_step(predict, latents, sigma, next_sigma, noises)
        mx.eval(latents)
        if ends and step == len(levels) - 2:
            latents = predict(latents, LAST)
            mx.eval(latents)
        yield latents


def _res_2s_step(
    predict: Predict, latents: Latents, sigma: float, next_sigma: float, noises: tuple[Latents, Latents]
) -> Latents:
    """From one level to the next, with the half step's noise and the whole step's."""
    h = math.log(sigma / next_sigma)
    half = h * 0.5 * _phi_1(h / 2)
    second = 2 * _phi_2(h)
    first = _phi_1(h) - second
    middle = math.sqrt(sigma * next_sigma)

    clean = predict(latents, sigma)
    anchor = latents
    mid = anchor.map(lambda a, x0: a + half * (x0 - a), clean)
    mid = predict.restore(_with_noise(anchor, mid, noises[0], sigma, middle), latents, sigma)
    if h < _ANCHORED[0] and sigma > _ANCHORED[1]:  # the anchor from which a half step without noise leads to `mid`
        anchor = mid.map(lambda x, x0: (x - half * x0) / (1 - half), clean)
    mx.eval(mid, anchor)
    clean_mid = predict(mid, middle)
    ahead = anchor.map(lambda a, x0, xm: a + h * (first * (x0 - a) + second * (xm - a)), clean, clean_mid)
    return predict.restore(_with_noise(anchor, ahead, noises[1], sigma, next_sigma), latents, sigma)


def _with_noise(start: Latents, ahead: Latents, noise: Latents, sigma: float, next_sigma: float) -> Latents:
    """A step's result with fresh noise in the place of a part of the old (`Res2sDiffusionStep`)."""
    up = next_sigma * _NOISE
    kept = math.sqrt(next_sigma**2 - up**2)
    ratio = (1 - next_sigma) + kept
    down = kept / ratio

    def step(x: mx.array, y: mx.array, n: mx.array) -> mx.array:
        direction = (x - y) / (sigma - next_sigma)
        return ratio * (x - sigma * direction + down * direction) + up * n

    return start.map(step, ahead, noise)


def _phi_1(h: float) -> float:
    """(1 - e^-h) / h."""
    return -math.expm1(-h) / h


def _phi_2(h: float) -> float:
    """(e^-h - 1 + h) / h^2, as the reference computes it."""
    return (math.exp(-h) - 1 + h) / h**2
