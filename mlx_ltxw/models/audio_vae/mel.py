"""The log-mel spectrogram that the audio VAE reads, always in float32."""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx
import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.audio_vae.config import AudioVAEConfig

FLOOR = 1e-5
"""Smallest mel magnitude before the logarithm."""
FRAMES = 4096
"""Spectrum frames made at a time."""


def _slaney_hz(mel: np.ndarray) -> np.ndarray:
    """Slaney's scale: 15 mel to 1 kHz, from there 27 mel to a factor of 6.4."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


@lru_cache(maxsize=4)
def filterbank(sample_rate: int, n_fft: int, mels: int) -> np.ndarray:
    """Triangles (bins, mels) on slaney's scale from 0 Hz to half the rate, each of area 1, float32.

    Source: `librosa.filters.mel`, whose result torchaudio's `melscale_fbanks(norm="slaney", mel_scale="slaney")` is.
    """
    top = 15 + 27 * np.log(sample_rate / 2 / 1000) / np.log(6.4)
    edges = _slaney_hz(np.linspace(0, top, mels + 2))
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    hz = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)[:, None]
    triangles = np.clip(np.minimum((hz - low) / (peak - low), (high - hz) / (high - peak)), 0, None)
    return (triangles * 2 / (high - low)).astype(np.float32)


def log_mel(waveform: mx.array, config: AudioVAEConfig) -> mx.array:
    """The natural-log mel spectrogram (B, 1 + N // hop, mels, channels) of `waveform` (B, N, channels), float32.

    Magnitudes of a centred STFT (periodic Hann window, edges reflected), each mel at least 1e-5. The config's `causal`
    concerns timestamps alone. Source: official `audio_vae/ops.py:AudioProcessor.waveform_to_mel`.

    Args:
        waveform: At `config.sample_rate`, in -1 to 1.

    Raises:
        UserError: fewer samples than the reflected edges need.
    """
    batch, length, channels = waveform.shape
    half = config.n_fft // 2
    if length <= half:
        raise UserError(
            f"The sound has {length} samples, too few for a spectrogram.",
            f"Give at least {half + 1} samples at {config.sample_rate} Hz ({(half + 1) / config.sample_rate:.3f} s).",
        )
    x = waveform.astype(mx.float32).swapaxes(1, 2)  # (B, channels, N)
    x = mx.concatenate([x[..., half:0:-1], x, x[..., -2 : -half - 2 : -1]], axis=-1)
    frames = 1 + length // config.hop
    total = x.shape[-1]
    windows = mx.as_strided(x, (batch, channels, frames, config.n_fft), (channels * total, total, config.hop, 1))
    mels = [_log_mel(windows[:, :, start : start + FRAMES], config) for start in range(0, frames, FRAMES)]
    return mx.concatenate(mels, axis=2).transpose(0, 2, 3, 1)


def _log_mel(windows: mx.array, config: AudioVAEConfig) -> mx.array:
    """(B, channels, frames, n_fft) -> (B, channels, frames, mels), evaluated."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.n_fft) / config.n_fft)
    magnitude = mx.abs(mx.fft.rfft(windows * mx.array(hann.astype(np.float32))))  # (B, channels, frames, bins)
    mel = magnitude @ mx.array(filterbank(config.sample_rate, config.n_fft, config.mel_bins))
    mel = mx.log(mx.maximum(mel, FLOOR))
    mx.eval(mel)
    return mel
