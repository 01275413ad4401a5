"""The gelu feed-forward network. Source: `ltx_core/model/transformer/feed_forward.py`, `gelu_approx.py`."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models import ops
from mlx_ltxw.models.transformer.walk import Done, nothing_done


class GELUProjection(nn.Module):
    """A linear layer followed by gelu (key `proj`)."""

    def __init__(self, dim: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, inner, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        return ops.gelu_tanh(self.proj(x))


TOKENS = 2176
"""How many tokens a feed-forward network takes at a time: of more, each part waits for the one before it.

Its hidden layer is four times as wide as the stream, the widest of a block: at 14,080 tokens of LTX-2.3's video 460 MB
in bf16, and as much again behind the gelu. On an H200 parts of 2048 cost no time at either of the measured sizes, and
of 4096 none at 4290 tokens and 1.8 % at 14,080 (`docs/log.md`). 4290 tokens take 1.67 ms in two parts, 1.74 in three
and 1.76 in one.
"""


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

    def __call__(self, x: mx.array, done: Done = nothing_done) -> mx.array:
        """(B, T, dim) -> (B, T, dim); each part of the tokens is `done` for itself."""
        tokens = x.shape[1]
        count = -(-tokens // TOKENS)
        if count <= 1:
            return self._whole(x)
        size = -(-tokens // count)  # all of one size, but for the last
        parts: list[mx.array] = []
        for start in range(0, tokens, size):
            part = x[:, start : start + size]
            if parts:
                (part,) = mx.depends([part], [parts[-1]])
            parts.append(self._whole(part))
            done(parts[-1])
        return mx.concatenate(parts, axis=1)

    def _whole(self, x: mx.array) -> mx.array:
        for layer in self.net:
            x = layer(x)
        return x
