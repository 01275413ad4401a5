"""SnakeBeta between an up- and a downsampling filter, so that its overtones do not alias (BigVGAN)."""

from __future__ import annotations

from functools import partial
from math import pi

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.machine import on_cpu
from mlx_ltxw.models.audio_vae.resample import downsample, kaiser_sinc, upsample

RATE, TAPS = 2, 12
REACH = 6
"""Samples on either side that one activated sample depends on."""

_SINE = (3.14159263, -5.16770949, 2.55007173, -0.59827557, 0.07765671)
"""sin(pi z) / z as a polynomial in z^2 on |z| <= 1/2; largest error of the sine 1.4e-8 (Chebyshev fit)."""


@partial(mx.compile, shapeless=True)
def _snake(x: mx.array, alpha: mx.array, scale: mx.array) -> mx.array:
    return x + scale * mx.square(mx.sin(x * alpha))


def _snake_by_polynomial(x: mx.array, alpha: mx.array, scale: mx.array) -> mx.array:
    """As `_snake`. MLX's sine takes some 15 ns a sample on x86, more than all else; this takes a quarter of it."""
    z = x * (alpha * (1 / pi))
    z = z - mx.round(z)  # the squared sine has the period 1 in z
    square = z * z
    sine = mx.array(_SINE[-1], mx.float32)
    for coefficient in reversed(_SINE[:-1]):
        sine = sine * square + coefficient
    return x + scale * mx.square(sine * z)


class SnakeBeta(nn.Module):
    """`x + sin(e^alpha x)^2 / (e^beta + 1e-9)`, per channel, in float32. Source: official `vocoder.py:SnakeBeta`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = mx.zeros(channels)
        self.beta = mx.zeros(channels)

    def __call__(self, x: mx.array) -> mx.array:
        alpha = mx.exp(self.alpha.astype(mx.float32))
        scale = 1 / (mx.exp(self.beta.astype(mx.float32)) + 1e-9)
        return (_snake_by_polynomial if on_cpu() else _snake)(x, alpha, scale)


class Filter(nn.Module):
    """Holds a stored filter (1, 1, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = mx.array(kaiser_sinc(TAPS, 0.5 / RATE, 0.6 / RATE)[None, None])

    def taps(self) -> mx.array:
        """The filter (12,) in float32."""
        return self.filter.reshape(-1).astype(mx.float32)


class Downsample(nn.Module):
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
        self.downsample = Downsample()

    def __call__(self, x: mx.array) -> mx.array:
        x = upsample(x, self.upsample.taps(), RATE, TAPS // 2 - 1)  # (B, 2 L, C)
        return downsample(self.act(x), self.downsample.lowpass.taps(), RATE)
