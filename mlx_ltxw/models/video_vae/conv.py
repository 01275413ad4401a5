"""The VAE's one convolution, 3x3x3 with replicated frames, and the two ways it is computed.

Channels last: activations are (B, T, H, W, C), weights [O, 3, 3, 3, I].
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.machine import on_cpu, on_metal


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
        convolve = conv3d_by_frames if prefer_frames(weight) else conv3d_direct
        return convolve(x, weight, self.stride, pad, frames_before) + self.conv.bias


def prefer_frames(weight: mx.array) -> bool:
    """Whether `conv3d_by_frames` beats `conv3d_direct` for this weight on the default device.

    On the CPU, MLX copies 27 patches of the input before one matrix product; by frames it copies 9, but makes three
    outputs. Measured on two cores, 97 frames of 32x32: 8 -> 8 channels 69 against 16 ms, 16 -> 32 157 against 93; with
    outputs at least four times as wide as the input the direct way is as fast or faster. On CUDA the direct way is
    always faster (H200, bf16, LTX-2.3's widths: 1.1 to 1.7 times). On Metal it is a fused kernel too, except that
    widths which are no multiple of 16 fall back to the 27 copies.
    """
    out_channels, in_channels = weight.shape[0], weight.shape[-1]
    if on_cpu():
        return out_channels <= 2 * in_channels
    return on_metal() and bool(out_channels % 16 or in_channels % 16)


def conv3d_direct(x: mx.array, weight: mx.array, stride: tuple[int, int, int], pad: int, before: int) -> mx.array:
    """Pads the frames and calls MLX's 3-D convolution.

    Args:
        x: (B, T, H, W, I).
        weight: [O, 3, 3, 3, I].
        stride: (time, height, width).
        pad: Rows and columns of zeros on each side.
        before: How often the first frame is repeated; the last one is repeated 2 - before times.
    """
    x = mx.concatenate([x[:, :1]] * before + [x] + [x[:, -1:]] * (2 - before), axis=1)
    return mx.conv3d(x, weight, stride=stride, padding=(0, pad, pad))


def conv3d_by_frames(x: mx.array, weight: mx.array, stride: tuple[int, int, int], pad: int, before: int) -> mx.array:
    """Convolves each frame with all three temporal taps at once, then adds the three, shifted in time.

    Arguments and result as in `conv3d_direct`.
    """
    batch, frames = x.shape[:2]
    width = weight.shape[0]
    taps = weight.swapaxes(0, 1).reshape(3 * width, *weight.shape[2:])  # [3 O, 3, 3, I], tap slowest
    y = mx.conv2d(x.flatten(0, 1), taps, stride=stride[1:], padding=pad)
    y = y.reshape(batch, frames, *y.shape[1:])  # (B, T, H', W', 3 O)
    parts = [shift_frames(y[..., tap * width : (tap + 1) * width], tap - before)[:, :: stride[0]] for tap in range(3)]
    return parts[0] + parts[1] + parts[2]


def shift_frames(x: mx.array, by: int) -> mx.array:
    """Frame t becomes frame t + by of `x` (B, T, ...), with the first and last frame repeated beyond the ends."""
    if by == 0:
        return x
    if by < 0:
        return mx.concatenate([x[:, :1]] * -by + [x[:, :by]], axis=1)[:, : x.shape[1]]
    return mx.concatenate([x[:, by:]] + [x[:, -1:]] * by, axis=1)[:, -x.shape[1] :]


def reflect_edges(x: mx.array) -> mx.array:
    """Mirrors one row and one column on each side: (B, T, H, W, C) -> (B, T, H + 2, W + 2, C)."""
    if min(x.shape[2:4]) < 2:
        raise ValueError(f"reflect padding needs at least two rows and columns, got {x.shape[2]}x{x.shape[3]}")
    x = mx.concatenate([x[:, :, 1:2], x, x[:, :, -2:-1]], axis=2)
    return mx.concatenate([x[:, :, :, 1:2], x, x[:, :, :, -2:-1]], axis=3)
