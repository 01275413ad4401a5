"""SnakeBeta between an up- and a downsampling filter, so that its overtones do not alias (BigVGAN)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models import ops
from mlx_ltxw.models.audio_vae.resample import downsample, kaiser_sinc, upsample

RATE, TAPS = 2, 12
REACH = 6
"""Samples on either side that one activated sample depends on."""


class SnakeBeta(nn.Module):
    """`x + sin(e^alpha x)^2 / (e^beta + 1e-9)`, per channel, in float32. Source: official `vocoder.py:SnakeBeta`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = mx.zeros(channels)
        self.beta = mx.zeros(channels)

    def __call__(self, x: mx.array) -> mx.array:
        alpha = mx.exp(self.alpha.astype(mx.float32))
        scale = 1 / (mx.exp(self.beta.astype(mx.float32)) + 1e-9)
        return ops.snake(x, alpha, scale)


class Filter(nn.Module):
    """Holds a stored filter (1, 1, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = mx.array(kaiser_sinc(TAPS, 0.5 / RATE, 0.6 / RATE)[None, None])

    def taps(self) -> mx.array:
        """The filter (12,) in float32."""
        return self.filter.reshape(-1).astype(mx.float32)


class DownsampleFilter(nn.Module):
    """Names the second stored filter as the checkpoint does."""

    def __init__(self) -> None:
        super().__init__()
        self.lowpass = Filter()


class Activation1d(nn.Module):
    """Activates (B, L, C) at twice the rate. The filters are the checkpoint's own, since training stored them in bf16.

    Source: official `audio_vae/vocoder.py:Activation1d`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = SnakeBeta(channels)
        self.upsample = Filter()
        self.downsample = DownsampleFilter()

    def __call__(self, x: mx.array) -> mx.array:
        x = upsample(x, self.upsample.taps(), RATE, TAPS // 2 - 1)  # (B, 2 L, C)
        return downsample(self.act(x), self.downsample.lowpass.taps(), RATE)
