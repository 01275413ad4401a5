"""Samplers: from noise to clean latents, given something that predicts clean latents.

Source: `ltx_pipelines/utils/samplers.py:euler_denoising_loop`, `ltx_core/components/diffusion_steps.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np

from mlx_ltxw.pipeline.latents import Latents

Predict = Callable[[Latents, float], Latents]
"""`(noisy latents, sigma) -> clean latents`, all fp32, with what is given in its place."""

Sampler = Callable[[Predict, Latents, np.ndarray], Iterator[Latents]]
"""`(predict, latents at the first level, noise levels (steps + 1,)) -> the latents after each step`, evaluated."""


def euler(predict: Predict, latents: Latents, sigmas: np.ndarray) -> Iterator[Latents]:
    """Euler steps along the straight line to the predicted clean latents; one prediction a step."""
    for sigma, next_sigma in itertools.pairwise(map(float, sigmas)):
        clean = predict(latents, sigma)
        ratio = (next_sigma - sigma) / sigma
        latents = latents.map(lambda x, x0, ratio=ratio: x + (x - x0) * ratio, clean)
        mx.eval(latents)
        yield latents
