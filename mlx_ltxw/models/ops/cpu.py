"""Scaled dot-product attention and sigmoid for MLX's CPU backend.

There `mx.exp` takes 9 to 14 ns an element, `mx.tanh` and `mx.sigmoid` 10 to 20, `mx.power(2, x)` 3 to 4, and a sum or
product 0.1 (Linux, x86-64, MLX 0.32); in a small model with 1024 text tokens the stock softmax is most of the time. So
exponentials are powers of two, those of attention by a polynomial. Scores are touched as seldom as possible, and are
made for a few heads at a time, which stay in the cache. A GPU takes the stock kernels.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import mlx.core as mx

from mlx_ltxw.machine import on_cpu

_SCORES = 2 << 20
"""Bytes of scores made at a time, where one head's are not more."""


def preferred() -> bool:
    """Whether the current device is a CPU on which the stock exponential is slow."""
    return sys.platform != "darwin" and on_cpu()


_LEAST = -126.0
"""The exponent of the smallest normal fp32 number."""

_POLYNOMIAL = (9.387883474e-4, 9.188611992e-3, 5.527972430e-2, 2.401721925e-1, 6.931422353e-1, 0.99999994)
"""Of 2^f for f in (-1, 0], highest power first: least squares, reweighted towards the least relative error, 1e-7."""


@mx.custom_function
def exp2(x: mx.array) -> mx.array:
    """2 to the power of x, for x <= 0, elementwise in fp32; within 3e-7 of itself, and never below 2^-126."""
    x = mx.maximum(x, _LEAST)
    whole = x.astype(mx.int32)
    rest = x - whole.astype(mx.float32)
    power = _POLYNOMIAL[0] * rest + _POLYNOMIAL[1]
    for coefficient in _POLYNOMIAL[2:]:
        power = power * rest + coefficient
    return (power.view(mx.int32) + mx.left_shift(whole, 23)).view(mx.float32)  # adds to the exponent's bits


@exp2.vjp
def _exp2_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * output * math.log(2)


@mx.custom_function
def sigmoid(x: mx.array) -> mx.array:
    """As `mx.sigmoid`, elementwise."""
    return 1 / (1 + mx.power(mx.array(2.0), -math.log2(math.e) * x))


@sigmoid.vjp
def _sigmoid_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * output * (1 - output)


def attention(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """As `mx.fast.scaled_dot_product_attention` without a mask: (B, H, T, D), (B, H, S, D) twice -> (B, H, T, D)."""
    together = heads_together(queries, keys)
    in_powers_of_two = queries.astype(mx.float32) * (scale * math.log2(math.e))
    keys, values = keys.astype(mx.float32), values.astype(mx.float32)
    parts = [
        _attend(*(x[:, start : start + together] for x in (in_powers_of_two, keys, values)))
        for start in range(0, queries.shape[1], together)
    ]
    return mx.concatenate(parts, axis=1).astype(queries.dtype)


def heads_together(queries: mx.array, keys: mx.array) -> int:
    """How many heads' scores to make at a time: (B, H, T, D) and (B, H, S, D)."""
    batch, _, tokens, _ = queries.shape
    return max(1, _SCORES // (4 * batch * tokens * keys.shape[2]))


def weights(scores: mx.array) -> tuple[mx.array, mx.array]:
    """Softmax to the base of 2, in two factors: powers of two (..., S), and what brings their sum to one (..., 1)."""
    highest = mx.stop_gradient(mx.max(scores, axis=-1, keepdims=True))
    powers: Any = exp2(scores - highest)
    return powers, 1 / mx.sum(powers, axis=-1, keepdims=True)


def _attend(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """The sum's factor comes last, on the smallest array."""
    powers, factor = weights(queries @ keys.swapaxes(-1, -2))
    return (powers @ values) * factor
