"""The VAE's one convolution, 3x3x3 with replicated frames.

Channels last: activations are (B, T, H, W, C), weights [O, 3, 3, 3, I].
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models import ops


class CausalConv3d(nn.Module):
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

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, H, W, I) -> (B, ceil(T / st), ceil(H / sh), ceil(W / sw), O)."""
        weight, frames_before = self.conv.weight, 2 if self.causal else 1
        if self.padding_mode == "reflect":
            x, pad = reflect_edges(x), 0
        else:
            pad = 1
        return ops.conv3d(x, weight, self.stride, pad, frames_before) + self.conv.bias


def reflect_edges(x: mx.array) -> mx.array:
    """Mirrors one row and one column on each side: (B, T, H, W, C) -> (B, T, H + 2, W + 2, C)."""
    if min(x.shape[2:4]) < 2:
        raise ValueError(f"reflect padding needs at least two rows and columns, got {x.shape[2]}x{x.shape[3]}")
    x = mx.concatenate([x[:, :, 1:2], x, x[:, :, -2:-1]], axis=2)
    return mx.concatenate([x[:, :, :, 1:2], x, x[:, :, :, -2:-1]], axis=3)
