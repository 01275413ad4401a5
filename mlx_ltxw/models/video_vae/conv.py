"""The VAE's one convolution, 3x3x3 with replicated frames.

Channels last: activations are (B, T, H, W, C), weights [O, 3, 3, 3, I].
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models import ops
from mlx_ltxw.models.video_vae.pieces import Layer, Piece, Pieces, gathered, joined, kept


class CausalConv3d(Layer):
    """3x3x3 convolution that repeats border frames in time and pads height and width by one.

    Official `convolution.py:CausalConv3d`. In time it is never padded with zeros: a causal one repeats the first frame
    twice, any other the first and the last frame once.

    Args:
        in_channels: Input width.
        out_channels: Output width.
        padding_mode: `zeros` or `reflect`, in height and width.
        causal: Whether a frame may see past frames alone.
        stride: (time, height, width).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        padding_mode: str,
        causal: bool,
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 3)
        self.padding_mode, self.causal, self.stride = padding_mode, causal, stride

    def pieces(self, pieces: Pieces) -> Pieces:
        """(B, T, H, W, I) -> (B, ceil(T / st), ceil(H / sh), ceil(W / sw), O); two frames are kept between pieces."""
        if self.stride[0] > 1:
            pieces = gathered(pieces)
        before, after = (2, 0) if self.causal else (1, 1)
        held: list[mx.array] = []
        for frames, last in pieces:
            x = joined([*held, frames])
            del frames
            count = before + x.shape[1] + (after if last else 0) - 2
            out = [self._convolved(x, before, after if last else 0)] if count > 0 else []
            if not last:
                mx.async_eval(out)
                used = max(0, count) - before  # frames of x that no later output needs
                held, before = [kept(x[:, used:]) if used > 0 else x], max(0, -used)
            del x
            if out:
                yield Piece(out.pop(), last)

    def _convolved(self, x: mx.array, before: int, after: int) -> mx.array:
        """With the first and the last frame repeated so often."""
        pad = 1
        if self.padding_mode == "reflect":
            x, pad = reflect_edges(x), 0
        return ops.conv3d(x, self.conv.weight, self.stride, pad, before, after) + self.conv.bias


def reflect_edges(x: mx.array) -> mx.array:
    """Mirrors one row and one column on each side: (B, T, H, W, C) -> (B, T, H + 2, W + 2, C)."""
    if min(x.shape[2:4]) < 2:
        raise ValueError(f"reflect padding needs at least two rows and columns, got {x.shape[2]}x{x.shape[3]}")
    x = mx.concatenate([x[:, :, 1:2], x, x[:, :, -2:-1]], axis=2)
    return mx.concatenate([x[:, :, :, 1:2], x, x[:, :, :, -2:-1]], axis=3)
