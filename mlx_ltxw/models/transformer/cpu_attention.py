"""Scaled dot-product attention for MLX's CPU backend.

There `mx.exp`, which the stock softmax uses, takes about 14 ns an element and `mx.power(2, x)` about 4 ns (Linux,
x86-64, MLX 0.32); in a small model with 1024 text tokens the softmax is most of the time. A GPU takes the stock kernel.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import mlx.core as mx


def preferred() -> bool:
    """Whether the current device is a CPU on which the stock softmax is slow."""
    return sys.platform != "darwin" and mx.default_device() == mx.Device(mx.cpu)


@mx.custom_function
def softmax(scores: mx.array) -> mx.array:
    """Over the last axis; fp32 scores of any sign and size."""
    shifted = scores - mx.max(scores, axis=-1, keepdims=True)
    weights = mx.power(mx.array(2.0), shifted * math.log2(math.e))
    return weights / mx.sum(weights, axis=-1, keepdims=True)


@softmax.vjp
def _softmax_vjp(scores: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    product = cotangent * output
    return product - output * mx.sum(product, axis=-1, keepdims=True)


def attention(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """As `mx.fast.scaled_dot_product_attention` without a mask: (B, H, T, D), (B, H, S, D) twice -> (B, H, T, D)."""
    scores = (queries * scale).astype(mx.float32) @ keys.swapaxes(-1, -2).astype(mx.float32)
    weights: Any = softmax(scores)
    return (weights @ values.astype(mx.float32)).astype(queries.dtype)
