"""Noise levels of training: a stretched, shifted logit-normal distribution.

Source: `ltx_trainer/timestep_samplers.py:ShiftedLogitNormalTimestepSampler`; the logit-normal density is that of
arXiv:2403.03206, section 3.1.
"""

from __future__ import annotations

import mlx.core as mx

EPS = 1e-3
UNIFORM_SHARE = 0.1
_TOP, _BOTTOM = 3.0902, -2.5758  # the 99.9th and 0.5th percentile of the standard normal distribution
_SLOPE = (2.05 - 0.95) / (4096 - 1024)


def shift(tokens: int) -> float:
    """The mean of the logit for a clip of `tokens`: 0.95 at 1024, 2.05 at 4096, the line goes on beyond both."""
    return 0.95 + _SLOPE * (tokens - 1024)


def draw_sigmas(key: mx.array, tokens: int, count: int = 1) -> mx.array:
    """Noise levels in [0, 1], (count,) fp32.

    Args:
        key: MLX's random key, (2,) uint32.
        tokens: How many the clip has in this modality.
        count: How many.
    """
    normal_key, uniform_key, choice_key = mx.random.split(key, 3)
    normal = mx.random.normal((count,), key=normal_key)
    uniform = mx.random.uniform(shape=(count,), key=uniform_key)
    choice = mx.random.uniform(shape=(count,), key=choice_key)
    return levels(normal, uniform, choice, tokens)


def levels(normal: mx.array, uniform: mx.array, choice: mx.array, tokens: int) -> mx.array:
    """Noise levels from standard normal numbers and two sets of uniform ones in [0, 1).

    A tenth of them is uniform, so that no level dies out in long clips.
    """
    mean = shift(tokens)
    low, high = mx.sigmoid(mx.array(mean + _BOTTOM)), mx.sigmoid(mx.array(mean + _TOP))
    stretched = (mx.sigmoid(normal + mean) - low) / (high - low)
    stretched = mx.clip(mx.where(stretched >= EPS, stretched, 2 * EPS - stretched), 0, 1)
    return mx.where(choice > UNIFORM_SHARE, stretched, (1 - EPS) * uniform + EPS)
