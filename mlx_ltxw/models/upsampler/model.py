"""The latent upsampler: video latents (B, F, H, W, C) to more rows and columns, or more frames.

Source: `ltx_core/model/upsampler`. Parameter names are the checkpoint's.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models import ops
from mlx_ltxw.models.upsampler.config import GROUPS, UpsamplerConfig
from mlx_ltxw.models.video_vae.layers import depth_to_space
from mlx_ltxw.models.video_vae.model import PerChannelStatistics


class ResBlock(nn.Module):
    """conv, norm, SiLU, conv, norm, plus the input, SiLU (official `res_block.py`)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm1 = nn.GroupNorm(GROUPS, channels, pytorch_compatible=True)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, channels, pytorch_compatible=True)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, F, H, W, C) -> the same shape."""
        y = nn.silu(self.norm1(self.conv1(x)))
        return nn.silu(self.norm2(self.conv2(y)) + x)


class BlurDownsample(nn.Module):
    """Blurs rows and columns with a stored 5x5 kernel and keeps every `stride`-th (official `blur_downsample.py`)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.kernel = mx.zeros((1, 1, 5, 5))
        self.stride = stride
        self.freeze()

    def __call__(self, x: mx.array) -> mx.array:
        """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), C)."""
        if self.stride == 1:
            return x
        channels = x.shape[-1]
        kernel = mx.broadcast_to(self.kernel.reshape(1, 5, 5, 1).astype(x.dtype), (channels, 5, 5, 1))
        return mx.conv2d(x, kernel, stride=self.stride, padding=2, groups=channels)


class RationalResampler(nn.Module):
    """Rows and columns times a fraction (official `spatial_rational_resampler.py`)."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        up, down = config.space.as_integer_ratio()
        self.conv = nn.Conv2d(config.mid_channels, up**2 * config.mid_channels, 3, padding=1)
        self.blur_down = BlurDownsample(down)
        self.up = up

    def __call__(self, x: mx.array) -> mx.array:
        """(B, F, H, W, C) -> (B, F, ceil(H up / down), ceil(W up / down), C)."""
        grown = depth_to_space(_each_frame(self.conv, x), (1, self.up, self.up))
        return _each_frame(self.blur_down, grown)


class Upsampler(nn.Module):
    """A latent upsampler; computes in its weights' dtype and answers in the input's.

    Args:
        config: From the file.
    """

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        width, blocks = config.mid_channels, range(config.num_blocks_per_stage)
        self.config = config
        self.initial_conv = nn.Conv3d(config.in_channels, width, 3, padding=1)
        self.initial_norm = nn.GroupNorm(GROUPS, width, pytorch_compatible=True)
        self.res_blocks = [ResBlock(width) for _ in blocks]
        self.stride = (config.time, int(config.space), int(config.space))
        growth = self.stride[0] * self.stride[1] * self.stride[2]
        self.upsampler: RationalResampler | list[nn.Module]
        if config.rational_resampler:
            self.upsampler = RationalResampler(config)
        elif config.time > 1:
            self.upsampler = [nn.Conv3d(width, growth * width, 3, padding=1)]
        else:
            self.upsampler = [nn.Conv2d(width, growth * width, 3, padding=1)]
        self.post_upsample_res_blocks = [ResBlock(width) for _ in blocks]
        self.final_conv = nn.Conv3d(width, config.in_channels, 3, padding=1)

    def __call__(self, latent: mx.array) -> mx.array:
        """Upsamples a latent that is not normalised.

        Args:
            latent: (B, F, H, W, C).

        Returns:
            (B, F, H * space, W * space, C), rounded up; with `time` 2 it has 2F - 1 frames.
        """
        work = ops.paced()
        x = latent.astype(self.initial_conv.weight.dtype)
        x = nn.silu(self.initial_norm(self.initial_conv(x)))
        for block in self.res_blocks:
            x = block(x)
            work.add(x)
        x = self._resampled(x)
        for block in self.post_upsample_res_blocks:
            x = block(x)
            work.add(x)
        return self.final_conv(x).astype(latent.dtype)

    def _resampled(self, x: mx.array) -> mx.array:
        if isinstance(self.upsampler, RationalResampler):
            return self.upsampler(x)
        (conv,) = self.upsampler
        if self.config.time == 1:
            return depth_to_space(_each_frame(conv, x), self.stride)
        return depth_to_space(conv(x), self.stride)[:, 1:]  # the first frame stands for one picture


def upsample(upsampler: Upsampler, statistics: PerChannelStatistics, latent: mx.array) -> mx.array:
    """Upsamples a normalised video latent (official `upsample_video`).

    Args:
        upsampler: For a latent of so many channels.
        statistics: The video VAE's.
        latent: (B, F, H, W, C) fp32.

    Returns:
        (B, F', H', W', C) fp32, normalised, evaluated.
    """
    result = statistics.normalize(upsampler(statistics.un_normalize(latent)))
    mx.eval(result)
    return result


def _each_frame(layer: nn.Module, x: mx.array) -> mx.array:
    """A layer of pictures (N, H, W, C) on each frame of (B, F, H, W, C)."""
    y = layer(x.flatten(0, 1))
    return y.reshape(*x.shape[:2], *y.shape[1:])
