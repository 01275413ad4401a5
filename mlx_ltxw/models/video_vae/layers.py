"""The VAE's blocks: residual blocks, resampling by space-to-depth, per-frame attention.

Activations are (B, T, H, W, C). Attribute names are the official ones.
"""

from __future__ import annotations

from math import prod

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models.video_vae.config import BlockConfig
from mlx_ltxw.models.video_vae.conv import CausalConv3d
from mlx_ltxw.models.video_vae.pieces import Layer, Piece, Pieces, Waiting, gathered, paired

Stride = tuple[int, int, int]


def pixel_norm(x: mx.array) -> mx.array:
    """x / rms(x) over channels, eps 1e-8, computed in fp32 (official `common/normalization.py:PixelNorm`)."""
    return mx.fast.rms_norm(x, None, 1e-8)


def activated(piece: Piece) -> Piece:
    """Norm and SiLU."""
    return piece._replace(frames=nn.silu(pixel_norm(piece.frames)))


def space_to_depth(x: mx.array, stride: Stride) -> mx.array:
    """(B, T, H, W, C) -> (B, T/st, H/sh, W/sw, C*st*sh*sw); channel order c, time, row, column, slowest first."""
    batch, frames, height, width, channels = x.shape
    t, h, w = stride
    x = x.reshape(batch, frames // t, t, height // h, h, width // w, w, channels)
    return x.transpose(0, 1, 3, 5, 7, 2, 4, 6).flatten(4)


def depth_to_space(x: mx.array, stride: Stride) -> mx.array:
    """The inverse of `space_to_depth`."""
    batch, frames, height, width, channels = x.shape
    t, h, w = stride
    x = x.reshape(batch, frames, height, width, channels // prod(stride), t, h, w)
    x = x.transpose(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(batch, frames * t, height * h, width * w, -1)


class ResnetBlock3D(Layer):
    """norm, SiLU, convolution, twice, plus the input (official `resnet.py:ResnetBlock3D`).

    Where the width changes, the input passes a one-group norm and a 1x1x1 convolution first.
    """

    def __init__(self, in_channels: int, out_channels: int, padding_mode: str, causal: bool) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(in_channels, out_channels, padding_mode, causal)
        self.conv2 = CausalConv3d(out_channels, out_channels, padding_mode, causal)
        if in_channels != out_channels:
            self.norm3 = nn.GroupNorm(1, in_channels, eps=1e-6, pytorch_compatible=True)
            self.conv_shortcut = nn.Conv3d(in_channels, out_channels, 1)

    def pieces(self, pieces: Pieces) -> Pieces:
        """(B, T, H, W, I) -> (B, T, H, W, O)."""
        if "conv_shortcut" in self:  # whose norm is over all frames
            pieces = gathered(pieces)
        waiting = Waiting()

        def added(piece: Piece) -> Piece:
            x = waiting.take(piece.frames.shape[1])
            if "conv_shortcut" in self:
                x = self.conv_shortcut(self.norm3(x))
            return piece._replace(frames=x + piece.frames)

        first = self.conv1.pieces(map(activated, map(waiting.put, pieces)))
        return map(added, self.conv2.pieces(map(activated, first)))


class MidBlock(Layer):
    """A run of residual blocks of one width (official `resnet.py:UNetMidBlock3D`)."""

    def __init__(self, channels: int, num_layers: int, padding_mode: str, causal: bool) -> None:
        super().__init__()
        self.res_blocks = [ResnetBlock3D(channels, channels, padding_mode, causal) for _ in range(num_layers)]

    def pieces(self, pieces: Pieces) -> Pieces:
        """(B, T, H, W, C) -> the same shape."""
        for block in self.res_blocks:
            pieces = block.pieces(pieces)
        return pieces


class SpaceToDepthDownsample(Layer):
    """Halves axes by space-to-depth of a convolution, plus the input's group means (official `sampling.py`)."""

    def __init__(self, in_channels: int, out_channels: int, stride: Stride, padding_mode: str, causal: bool) -> None:
        super().__init__()
        self.conv = CausalConv3d(in_channels, out_channels // prod(stride), padding_mode, causal)
        self.stride, self.out_channels = stride, out_channels

    def pieces(self, pieces: Pieces) -> Pieces:
        """(B, T, H, W, I) -> (B, ceil(T/st), H/sh, W/sw, O)."""
        if self.stride[0] == 2:
            pieces = paired(pieces)  # 2k + 1 frames become k + 1
        waiting = Waiting()

        def lowered(piece: Piece) -> Piece:
            x = space_to_depth(waiting.take(piece.frames.shape[1]), self.stride)
            skip = mx.unflatten(x, -1, (self.out_channels, -1)).mean(axis=-1)
            return piece._replace(frames=space_to_depth(piece.frames, self.stride) + skip)

        return map(lowered, self.conv.pieces(map(waiting.put, pieces)))


class DepthToSpaceUpsample(Layer):
    """Doubles axes by depth-to-space of a convolution (official `sampling.py`).

    Doubling time drops the first frame, so T frames become 2T - 1. `residual` adds the rearranged input, its channels
    repeated as often as the output needs.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: Stride, residual: bool, padding_mode: str, causal: bool
    ) -> None:
        super().__init__()
        self.conv = CausalConv3d(in_channels, out_channels * prod(stride), padding_mode, causal)
        self.stride, self.residual = stride, residual
        self.growth = out_channels * prod(stride) / in_channels

    def pieces(self, pieces: Pieces) -> Pieces:
        """(B, T, H, W, I) -> (B, T*st - (st - 1), H*sh, W*sw, O)."""
        waiting, dropped = Waiting(), self.stride[0] - 1

        def raised(piece: Piece) -> Piece:
            nonlocal dropped
            y = depth_to_space(piece.frames, self.stride)[:, dropped:]
            if self.residual:
                x = waiting.take(piece.frames.shape[1])
                skip = depth_to_space(x, self.stride)[:, dropped:]  # I / prod(stride) channels
                y = y + mx.tile(skip, (1, 1, 1, 1, y.shape[-1] // skip.shape[-1]))
            dropped = 0
            return piece._replace(frames=y)

        return map(raised, self.conv.pieces(map(waiting.put, pieces) if self.residual else pieces))


class ChannelNorm(nn.Module):
    """x / |x| over channels, times sqrt(C) and a gain stored as [C, 1, 1] (official `attention.py:_RMSNorm2D`)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = mx.ones((channels, 1, 1))

    def __call__(self, x: mx.array) -> mx.array:
        """(..., C) -> the same shape."""
        length = mx.sqrt((x.astype(mx.float32) ** 2).sum(axis=-1, keepdims=True))
        unit = (x / mx.maximum(length, 1e-12)).astype(x.dtype)
        return unit * (x.shape[-1] ** 0.5 * self.gamma.flatten())


class AttnBlock3D(Layer):
    """Single-head self-attention over the pixels of each frame, plus the input (official `attention.py`, 1.2.0)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def pieces(self, pieces: Pieces) -> Pieces:
        """(B, T, H, W, C) -> the same shape."""
        return map(self._attended, pieces)

    def _attended(self, piece: Piece) -> Piece:
        x = piece.frames
        frames = x.flatten(0, 1)  # (B T, H, W, C)
        q, k, v = mx.split(self.to_qkv(self.norm(frames)).flatten(1, 2)[:, None], 3, axis=-1)  # (B T, 1, H W, C)
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=x.shape[-1] ** -0.5)
        return piece._replace(frames=x + self.proj(y.reshape(frames.shape)).reshape(x.shape))


def encoder_block(block: BlockConfig, channels: int, padding_mode: str, causal: bool) -> tuple[Layer, int]:
    """Builds one entry of `encoder_blocks` and tells its output width (official `video_vae.py:_make_encoder_block`)."""
    width = channels * block.multiplier
    if block.kind == "res_x":
        return MidBlock(channels, block.num_layers, padding_mode, causal), channels
    if block.kind == "res_x_y":
        return ResnetBlock3D(channels, width, padding_mode, causal), width
    if block.kind == "attn":
        return AttnBlock3D(channels), channels
    if block.kind.endswith("_res"):
        return SpaceToDepthDownsample(channels, width, block.stride, padding_mode, causal), width
    return CausalConv3d(channels, width, padding_mode, causal, block.stride), width


def decoder_block(block: BlockConfig, channels: int, padding_mode: str, causal: bool) -> tuple[Layer, int]:
    """Builds one decoder block and tells its output width (official `conv_video_decoder.py:_make_decoder_block`)."""
    width = channels // block.multiplier
    if block.kind == "res_x":
        return MidBlock(channels, block.num_layers, padding_mode, causal), channels
    if block.kind == "res_x_y":
        return ResnetBlock3D(channels, width, padding_mode, causal), width
    if block.kind == "attn":
        return AttnBlock3D(channels), channels
    return DepthToSpaceUpsample(channels, width, block.stride, block.residual, padding_mode, causal), width
