"""The gelu feed-forward network. Source: `ltx_core/model/transformer/feed_forward.py`, `gelu_approx.py`."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models.ops import cpu as cpu_ops


def gelu_tanh(x: mx.array) -> mx.array:
    """The tanh approximation of gelu, computed in fp32 and rounded once, as PyTorch does for bf16; elementwise."""
    return _by_sigmoid(x) if cpu_ops.preferred() else _by_tanh(x)


@mx.compile
def _by_tanh(x: mx.array) -> mx.array:
    y = x.astype(mx.float32)
    return (0.5 * y * (1 + mx.tanh(_inner(y)))).astype(x.dtype)


def _by_sigmoid(x: mx.array) -> mx.array:
    """The same number: `1 + tanh(z) = 2 sigmoid(2 z)`."""
    y = x.astype(mx.float32)
    gate: Any = cpu_ops.sigmoid(2 * _inner(y))
    return (y * gate).astype(x.dtype)


def _inner(y: mx.array) -> mx.array:
    return math.sqrt(2 / math.pi) * (y + 0.044715 * y * y * y)


class GELUProjection(nn.Module):
    """A linear layer followed by gelu (key `proj`)."""

    def __init__(self, dim: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, inner, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        return gelu_tanh(self.proj(x))


class FeedForward(nn.Module):
    """dim -> inner -> dim; keys `net.0.proj` and `net.2`, where the checkpoint leaves 1 to a dropout that does nothing.

    Args:
        dim: Width of the stream.
        inner: Hidden width (four times `dim` everywhere in LTX-2.3).
        bias: Whether both linears have one.
    """

    def __init__(self, dim: int, inner: int, bias: bool = True) -> None:
        super().__init__()
        self.net = [GELUProjection(dim, inner, bias), nn.Identity(), nn.Linear(inner, dim, bias=bias)]

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, dim) -> (B, T, dim)."""
        for layer in self.net:
            x = layer(x)
        return x
