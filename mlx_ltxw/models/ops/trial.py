"""Tries a kernel of our own before it is used: on a card or a driver where it fails, what MLX has itself goes on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable

import mlx.core as mx

_NEAR = 1e-2
"""Of the largest value: a rounding to bf16 is 4e-3 of its own, and a wrong kernel is far away."""


@functools.cache
def working(trial: Callable[..., bool], *variant: Hashable) -> bool:
    """Whether a kernel compiles, runs and gives what it should; tried once for each variant.

    Args:
        trial: Of a variant: whether its result on a small input is right.
        variant: What the kernel is compiled for.
    """
    try:
        return trial(*variant)
    except Exception:  # whatever the compiler, the driver or the card says
        return False


def close(got: mx.array, want: mx.array) -> bool:
    """Whether a kernel's result is that of the formula, but for rounding."""
    want = want.reshape(got.shape)
    largest = mx.max(mx.abs(got.astype(mx.float32) - want))
    return bool((largest <= _NEAR * mx.max(mx.abs(want))).item())
