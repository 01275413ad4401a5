"""Scaled dot-product attention, whole and in the parts that a gradient by hand needs.

A GPU takes the stock kernels. On a CPU with slow exponentials the stock softmax is most of the time in a small model
with 1024 text tokens; there exponentials are powers of two by a polynomial, scores are touched as seldom as possible,
and are made for a few heads at a time, which stay in the cache.
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx

from mlx_ltxw.models.ops import device
from mlx_ltxw.models.ops.exponentials import exp2

_SCORES = 2 << 20
"""Bytes of scores made at a time on a CPU, where one head's are not more."""


def attention(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """Attention without a mask: (B, H, T, D), (B, H, S, D) twice -> (B, H, T, D)."""
    if not device.slow_exponentials():
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale)
    groups = head_groups(queries, keys)
    in_powers_of_two = queries.astype(mx.float32) * (scale * math.log2(math.e))
    keys, values = keys.astype(mx.float32), values.astype(mx.float32)
    parts: list[mx.array] = []
    for part in groups:  # one after another: MLX would go over all of them abreast, and hold the scores of all heads
        own = mx.depends([in_powers_of_two[:, part]], parts[-1:])[0] if parts else in_powers_of_two[:, part]
        parts.append(_mixed_values(own, keys[:, part], values[:, part]))
    return mx.concatenate(parts, axis=1).astype(queries.dtype)


def head_groups(queries: mx.array, keys: mx.array) -> list[slice]:
    """Which heads' scores to make at a time: (B, H, T, D) and (B, H, S, D)."""
    batch, heads, tokens, _ = queries.shape
    together = heads
    if device.slow_exponentials():
        together = max(1, _SCORES // (4 * batch * tokens * keys.shape[2]))
    return [slice(start, start + together) for start in range(0, heads, together)]


def scores_at_once(heads: int, tokens: int, keys: int) -> int:
    """Bytes of the scores that `attention` makes at a time, fp32; 0 where a kernel makes none."""
    if not device.slow_exponentials():
        return 0
    one = 4 * tokens * keys
    return one * max(1, min(heads, _SCORES // max(1, one)))


def attention_weights(queries: mx.array, keys: mx.array, scale: float) -> tuple[mx.array, mx.array | None]:
    """Weights (B, H, T, S), and what they are to be multiplied by so that they sum to one; None for nothing."""
    keys = keys.swapaxes(-1, -2)
    if not device.slow_exponentials():
        return mx.softmax((queries * scale) @ keys, axis=-1, precise=True), None
    return _softmax_of_two((queries * (scale * math.log2(math.e))) @ keys)


def heads_first(x: mx.array) -> mx.array:
    """(B, T, H, D) -> (B, H, T, D); copied where every product would copy it: on a CPU in fp32, and on CUDA, where a
    product of such views takes twice as long to start as one of what lies in rows (29 and 15 us on an H200)."""
    x = x.transpose(0, 2, 1, 3)
    if device.slow_exponentials():
        return mx.contiguous(x.astype(mx.float32))
    return mx.contiguous(x) if device.backend() == "cuda" else x


def _softmax_of_two(scores: mx.array) -> tuple[mx.array, mx.array]:
    """Softmax to the base of 2, in two factors: powers of two (..., S), and what brings their sum to one (..., 1)."""
    highest = mx.stop_gradient(mx.max(scores, axis=-1, keepdims=True))
    powers: Any = exp2(scores - highest)
    return powers, 1 / mx.sum(powers, axis=-1, keepdims=True)


def _mixed_values(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """The sum's factor comes last, on the smallest array."""
    powers, factor = _softmax_of_two(queries @ keys.swapaxes(-1, -2))
    return (powers @ values) * factor
