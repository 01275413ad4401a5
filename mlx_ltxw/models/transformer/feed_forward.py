"""The gelu feed-forward network. Source: `ltx_core/model/transformer/feed_forward.py`, `gelu_approx.py`."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models import ops


class GELUProjection(nn.Module):
    """A linear layer followed by gelu (key `proj`)."""

    def __init__(self, dim: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, inner, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        return ops.gelu_tanh(self.proj(x))


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
