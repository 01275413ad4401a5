"""The noise-level sinusoids against 40-digit arithmetic and the official function."""

import math
from decimal import Decimal, localcontext

import mlx.core as mx
import numpy as np
import torch

import tests.reference  # noqa: F401  # makes ltx_core importable
from mlx_ltxw.models.transformer.adaln import sinusoid

from ltx_core.model.transformer.timestep_embedding import get_timestep_embedding  # isort: skip


def frequencies():
    """e to the official fp32 exponents, `-ln(10000) i / 128`, to 40 digits; float64."""
    exponents = np.float32(-math.log(10000)) * np.arange(128, dtype=np.float32) / np.float32(128)
    with localcontext() as context:
        context.prec = 40
        return np.array([float(Decimal(float(exponent)).exp()) for exponent in exponents])


def test_every_frequency_is_the_nearest_fp32_number():
    """The sine of so small an angle is the angle, so the frequencies can be read off it."""
    tiny = 2.0**-20
    got = np.asarray(sinusoid(mx.array([tiny])))[0, 128:] / np.float32(tiny)
    assert np.array_equal(got, frequencies().astype(np.float32))


def test_sinusoids_of_large_timesteps():
    """Against the official function and float64: at 1000, one unit in a frequency's last place is 6e-5 in the angle."""
    steps = np.array([1000.0, 909.375, 725.0, 421.875], np.float32)
    got = np.asarray(sinusoid(mx.array(steps)), np.float64)
    angles = steps.astype(np.float64)[:, None] * frequencies()
    want = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    assert np.sqrt(np.mean((got - want) ** 2)) < 4.5e-6
    theirs = get_timestep_embedding(torch.from_numpy(steps), 256, flip_sin_to_cos=True, downscale_freq_shift=0).numpy()
    assert np.sqrt(np.mean((got - theirs) ** 2)) < 1.5e-6
