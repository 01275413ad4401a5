"""The vocoder with bandwidth extension: 16 kHz from the mel, and what lies above 8 kHz from a second generator."""

from __future__ import annotations

from math import gcd, prod

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models import ops
from mlx_ltxw.models.audio_vae.config import VocoderConfig
from mlx_ltxw.models.audio_vae.mel import FLOOR
from mlx_ltxw.models.audio_vae.resample import hann_sinc, upsample
from mlx_ltxw.models.audio_vae.vocoder import Vocoder

FRAMES = 2048
"""Spectrum frames rendered at a time, 20.5 s; the frames around them are 6 % more work."""


class STFT(nn.Module):
    """Holds the windowed Fourier bases (2 * bins, 1, n_fft): all real rows, then all imaginary ones."""

    def __init__(self, n_fft: int) -> None:
        super().__init__()
        rows = 2 * (n_fft // 2 + 1)
        self.forward_basis = mx.zeros((rows, 1, n_fft))
        self.inverse_basis = mx.zeros((rows, 1, n_fft))  # in the checkpoint, used by nothing


class MelSTFT(nn.Module):
    """A causal log-mel spectrogram by the checkpoint's own bases (bf16 values, which training saw).

    Source: official `audio_vae/vocoder.py:MelSTFT, _STFTFn`.
    """

    def __init__(self, n_fft: int, hop: int, mels: int) -> None:
        super().__init__()
        self.hop = hop
        self.stft_fn = STFT(n_fft)
        self.mel_basis = mx.zeros((mels, n_fft // 2 + 1))

    def __call__(self, waveform: mx.array) -> mx.array:
        """(B, N, 2) with N a multiple of the hop -> natural log mel (B, N / hop, mels, 2)."""
        basis = self.stft_fn.forward_basis.astype(mx.float32).squeeze(1)  # (2 * bins, n_fft)
        n_fft = basis.shape[1]
        batch, length, channels = waveform.shape
        frames = length // self.hop
        left = max(0, n_fft - self.hop)  # causal: nothing is padded on the right
        x = mx.pad(waveform.swapaxes(1, 2), [(0, 0), (0, 0), (left, 0)])  # (B, 2, left + N)
        strides = (channels * x.shape[2], x.shape[2], self.hop, 1)
        windows = mx.as_strided(x, (batch, channels, frames, n_fft), strides)
        real, imaginary = mx.split(windows @ basis.T, 2, axis=-1)
        magnitude = mx.sqrt(mx.square(real) + mx.square(imaginary))
        mel = magnitude @ self.mel_basis.astype(mx.float32).T  # (B, 2, frames, mels)
        return mx.log(mx.maximum(mel, FLOOR)).transpose(0, 2, 3, 1)


class VocoderWithBWE(nn.Module):
    """Mel spectrogram to 48 kHz stereo, in float32 whatever the weights' dtype.

    Source: official `audio_vae/vocoder.py:VocoderWithBWE`.
    """

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.vocoder = Vocoder(config.vocoder)
        self.bwe_generator = Vocoder(config.bwe)
        self.mel_stft = MelSTFT(config.n_fft, config.hop, config.bwe.mel_bins)

    @property
    def output_rate(self) -> int:
        """Sample rate of the waveform, in Hz."""
        return self.config.output_rate

    def reach(self) -> int:
        """Spectrum frames on either side that a sample depends on."""
        config, rate = self.config, prod(self.config.vocoder.rates)
        samples = self.bwe_generator.reach() * config.hop + config.n_fft + hann_sinc(config.ratio).size
        return self.vocoder.reach() + -(-samples // rate)

    def __call__(self, mel: mx.array) -> mx.array:
        """Renders `mel` (B, T, mels, 2), natural log, any dtype, as (B, N, 2) in float32 within -1 and 1; evaluated.

        N is T * 160 * 3 for LTX-2.3. A long sound is rendered in pieces of `FRAMES`, each with the frames around it
        that it depends on, so that memory does not grow with the length; the result is the whole's.
        """
        rate, waveforms = prod(self.config.vocoder.rates), []
        step = self.config.hop // gcd(self.config.hop, rate)  # so that a frame of the second spectrum begins there too
        for window in ops.windows(mel.shape[1], FRAMES, self.reach(), step):
            waveform = self._render(mel[:, window.first : window.stop])
            waveforms.append(window.own(waveform, rate * self.config.ratio))
            mx.eval(waveforms[-1])
        return waveforms[0] if len(waveforms) == 1 else mx.concatenate(waveforms, axis=1)

    def _render(self, mel: mx.array) -> mx.array:
        base = self.vocoder(mel)  # (B, n, 2) at the input rate
        length = base.shape[1]
        base = mx.pad(base, [(0, 0), (0, -length % self.config.hop), (0, 0)])
        added = self.bwe_generator(self.mel_stft(base))
        taps = mx.array(hann_sinc(self.config.ratio))
        plain = upsample(base, taps, self.config.ratio, (taps.size - 1) // 2)
        return mx.clip(plain + added, -1, 1)[:, : length * self.config.ratio]
