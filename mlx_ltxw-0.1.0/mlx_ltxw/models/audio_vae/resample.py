"""Short filters over time, as banded matrix products.

A filter of the audio path is applied to blocks of a few samples at once: overlapping windows of the signal (a strided
view, nothing is copied) are multiplied by one small banded matrix. Raising the rate uses the filter's phases, so that
no zeros are stuffed in and nothing is scattered. Measured against a depthwise convolution: less than a tenth of its
time on the CPU.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

BLOCK = 8
"""Samples a window yields: the smaller, the fewer wasted products; the larger, the fewer small matrix products."""


def polyphase(size: int, rate: int, offset: int) -> tuple[np.ndarray, int]:
    """Splits a transposed convolution into the phases of its output.

    With `full` the transposed convolution of stride `rate`, `full[m + offset]` at `m = rate * n + r` is the sum over
    `d` of `x[n + d] * filter[r + offset - rate * d]`.

    Args:
        size: Filter taps.
        rate: Stride of the transposed convolution, output samples per input sample.
        offset: Output samples cropped at the start.

    Returns:
        Indices (rate, taps) into the filter, `size` where there is no tap, and the number of inputs before `n`.
    """
    before, after = (size - 1 - offset) // rate, (rate - 1 + offset) // rate
    steps = np.arange(-before, after + 1)
    index = np.arange(rate)[:, None] + offset - rate * steps
    return np.where((index >= 0) & (index < size), index, size), before


def band(taps: mx.array, count: int, step: int) -> mx.array:
    """The matrix that applies `taps` at `count` places, `step` apart.

    Args:
        taps: (phases, size).

    Returns:
        (count * phases, (count - 1) * step + size): row `n * phases + r` holds `taps[r]` from column `n * step` on.
    """
    phases, size = taps.shape
    width = (count - 1) * step + size
    row = mx.pad(taps, [(0, 0), (0, width - size)]).reshape(-1)
    # Rows repeated with a period longer by `step` than a row block slide right by `step` at each repetition.
    return mx.tile(mx.pad(row, (0, step)), count)[: count * phases * width].reshape(count * phases, width)


def pad_edges(x: mx.array, before: int, after: int) -> mx.array:
    """Repeats the first and the last sample of `x` (B, L, C)."""
    batch, _, channels = x.shape
    first = mx.broadcast_to(x[:, :1], (batch, before, channels))
    last = mx.broadcast_to(x[:, -1:], (batch, after, channels))
    return mx.concatenate([first, x, last], axis=1)


def _apply(x: mx.array, taps: mx.array, step: int, before: int, outputs: int) -> mx.array:
    """`taps` (phases, size) every `step` samples of `x` (B, L, C), edges repeated: (B, outputs * phases, C)."""
    batch, length, channels = x.shape
    phases, size = taps.shape
    blocks = -(-outputs // BLOCK)
    width = (BLOCK - 1) * step + size
    total = (blocks - 1) * BLOCK * step + width
    x = pad_edges(x, before, max(0, total - before - length))
    padded = x.shape[1]
    strides = (padded * channels, BLOCK * step * channels, channels, 1)
    windows = mx.as_strided(x, (batch, blocks, width, channels), strides)
    y = band(taps, BLOCK, step) @ windows  # (B, blocks, BLOCK * phases, C)
    return y.reshape(batch, blocks * BLOCK * phases, channels)[:, : outputs * phases]


def upsample(x: mx.array, filter_: mx.array, rate: int, offset: int) -> mx.array:
    """Raises the rate of `x` (B, L, C) to (B, L * rate, C), edges repeated.

    Args:
        filter_: (size,) low-pass whose taps sum to 1; the zero-stuffed signal's loss of level is made good.
        offset: Index of the tap through which the first output sample sees the first input sample.
    """
    index, before = polyphase(filter_.size, rate, offset)
    taps = mx.concatenate([filter_ * rate, mx.zeros(1, filter_.dtype)])[mx.array(index)]
    return _apply(x, taps, 1, before, x.shape[1])


def downsample(x: mx.array, filter_: mx.array, rate: int) -> mx.array:
    """Filters `x` (B, L, C) and keeps every `rate`-th sample, edges repeated: (B, ceil(L / rate), C)."""
    return _apply(x, filter_[None], rate, (filter_.size - 1) // 2, -(-x.shape[1] // rate))


def hann_sinc(rate: int) -> np.ndarray:
    """The taps (14 * rate + 1) of a Hann-windowed sinc that raises a sample rate by `rate`.

    Width 6 and roll-off 0.99, the defaults of `torchaudio.functional.resample`. Source: official
    `audio_vae/vocoder.py:UpSample1d`, which does not store this filter.
    """
    roll_off, width = 0.99, 6
    reach = int(np.ceil(width / roll_off))
    time = (np.arange(2 * reach * rate + 1) / rate - reach) * roll_off
    window = np.cos(np.clip(time, -width, width) * np.pi / width / 2) ** 2
    return (np.sinc(time) * window * roll_off / rate).astype(np.float32)


def kaiser_sinc(size: int, cutoff: float, half_width: float) -> np.ndarray:
    """The taps of a Kaiser-windowed sinc whose sum is 1, for an even `size`.

    Args:
        cutoff: In cycles per sample.
        half_width: Half the transition band, in cycles per sample.

    Source: official `audio_vae/vocoder.py:kaiser_sinc_filter1d`, after BigVGAN; Kaiser's formula for beta.
    """
    attenuation = 2.285 * (size // 2 - 1) * np.pi * 4 * half_width + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    else:
        beta = 0.5842 * max(attenuation - 21, 0) ** 0.4 + 0.07886 * max(attenuation - 21, 0)
    time = np.arange(size) - (size - 1) / 2
    taps = np.sinc(2 * cutoff * time) * np.kaiser(size, beta)
    return (taps / taps.sum()).astype(np.float32)
