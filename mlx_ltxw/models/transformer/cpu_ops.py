"""Scaled dot-product attention and sigmoid for MLX's CPU backend.

There `mx.exp` takes 9 to 14 ns an element, `mx.tanh` and `mx.sigmoid` 20, and `mx.power(2, x)` 4 (Linux, x86-64, MLX
0.32); in a small model with 1024 text tokens the stock softmax is most of the time. So exponentials are powers of two.
Attention scores are touched as seldom as possible, and are made for a few heads at a time, which stay in the cache. A
GPU takes the stock kernels.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import mlx.core as mx

_SCORES = 2 << 20
"""Bytes of scores made at a time, where one head's are not more."""


def preferred() -> bool:
    """Whether the current device is a CPU on which the stock exponential is slow."""
    return sys.platform != "darwin" and mx.default_device() == mx.Device(mx.cpu)


@mx.custom_function
def exp2(x: mx.array) -> mx.array:
    """2 to the power of x, elementwise."""
    return mx.power(mx.array(2.0), x)


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
    batch, heads, tokens, _ = queries.shape
    together = max(1, _SCORES // (4 * batch * tokens * keys.shape[2]))
    in_powers_of_two = queries.astype(mx.float32) * (scale * math.log2(math.e))
    keys, values = keys.astype(mx.float32), values.astype(mx.float32)
    parts = [
        _attend(*(x[:, start : start + together] for x in (in_powers_of_two, keys, values)))
        for start in range(0, heads, together)
    ]
    return mx.concatenate(parts, axis=1).astype(queries.dtype)


def _attend(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """Softmax of the scores, to the base of 2, times the values; the division comes last, on the smallest array."""
    scores = queries @ keys.swapaxes(-1, -2)
    highest = mx.stop_gradient(mx.max(scores, axis=-1, keepdims=True))
    weights: Any = exp2(scores - highest)
    return (weights @ values) / mx.sum(weights, axis=-1, keepdims=True)
