"""A `torchaudio` that offers just what `ltx_core` uses: `MelSpectrogram` and `functional.resample`.

The mel scale is slaney's, computed from its definition (linear below 1 kHz, logarithmic above), on `torch.stft`.
"""

from __future__ import annotations

import importlib.machinery
import math
import sys
import types

import torch


def slaney_filterbank(bins: int, low: float, high: float, mels: int, rate: int) -> torch.Tensor:
    """Triangular filters (bins, mels) with slaney's scale and area normalisation."""
    step, knee = 200.0 / 3.0, 1000.0
    log_step = math.log(6.4) / 27.0

    def to_mel(hz: float) -> float:
        return hz / step if hz < knee else knee / step + math.log(hz / knee) / log_step

    def to_hz(mel: torch.Tensor) -> torch.Tensor:
        return torch.where(mel < knee / step, mel * step, knee * torch.exp(log_step * (mel - knee / step)))

    edges = to_hz(torch.linspace(to_mel(low), to_mel(high), mels + 2, dtype=torch.float64))
    hz = torch.linspace(0, rate // 2, bins, dtype=torch.float64)
    rising = (hz[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[None, 2:] - hz[:, None]) / (edges[2:] - edges[1:-1])
    filters = torch.clamp(torch.minimum(rising, falling), min=0.0)
    return (filters * (2.0 / (edges[2:] - edges[:-2]))).float()


class MelSpectrogram(torch.nn.Module):
    """Same arguments and output (.., mels, frames) as `torchaudio.transforms.MelSpectrogram`, slaney scale only."""

    def __init__(
        self,
        sample_rate: int = 16000,
        n_fft: int = 400,
        win_length: int | None = None,
        hop_length: int | None = None,
        f_min: float = 0.0,
        f_max: float | None = None,
        n_mels: int = 128,
        window_fn: object = torch.hann_window,
        center: bool = True,
        pad_mode: str = "reflect",
        power: float = 2.0,
        mel_scale: str = "htk",
        norm: str | None = None,
        **_: object,
    ) -> None:
        super().__init__()
        assert mel_scale == "slaney"
        assert norm == "slaney"
        self.n_fft, self.power, self.center, self.pad_mode = n_fft, power, center, pad_mode
        self.win_length = win_length or n_fft
        self.hop_length = hop_length or self.win_length // 2
        self.register_buffer("window", torch.hann_window(self.win_length))
        bank = slaney_filterbank(n_fft // 2 + 1, f_min, f_max or sample_rate / 2, n_mels, sample_rate)
        self.register_buffer("bank", bank)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        flat = waveform.reshape(-1, waveform.shape[-1])
        spectrum = torch.stft(
            flat,
            self.n_fft,
            self.hop_length,
            self.win_length,
            self.window.to(flat),
            center=self.center,
            pad_mode=self.pad_mode,
            return_complex=True,
        )
        mel = (spectrum.abs() ** self.power).transpose(-1, -2) @ self.bank.to(flat)
        return mel.transpose(-1, -2).reshape(*waveform.shape[:-1], mel.shape[-1], mel.shape[-2])


def resample(waveform: torch.Tensor, orig_freq: int, new_freq: int) -> torch.Tensor:
    """Hann-windowed sinc, width 6, rolloff 0.99: torchaudio's defaults."""
    if orig_freq == new_freq:
        return waveform
    common = math.gcd(orig_freq, new_freq)
    orig, new = orig_freq // common, new_freq // common
    base = min(orig, new) * 0.99
    width = math.ceil(6 * orig / base)
    index = torch.arange(-width, width + orig, dtype=torch.float64)[None] / orig
    t = torch.arange(0, -new, -1, dtype=torch.float64)[:, None] / new + index
    t = (t * base).clamp(-6, 6)
    kernels = torch.sinc(t) * torch.cos(t * math.pi / 12) ** 2 * base / orig
    length = waveform.shape[-1]
    flat = torch.nn.functional.pad(waveform.reshape(-1, 1, length), (width, width + orig))
    out = torch.nn.functional.conv1d(flat, kernels[:, None].to(flat), stride=orig).transpose(1, 2)
    out = out.reshape(flat.shape[0], -1)[:, : math.ceil(new * length / orig)]
    return out.reshape(*waveform.shape[:-1], -1)


def install() -> None:
    """Registers the stand-in as `torchaudio`, whether or not a real one is installed."""
    module = types.ModuleType("torchaudio")
    module.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    module.__version__ = "0"  # type: ignore[attr-defined]
    transforms, functional = types.ModuleType("torchaudio.transforms"), types.ModuleType("torchaudio.functional")
    transforms.MelSpectrogram = MelSpectrogram  # type: ignore[attr-defined]
    functional.resample = resample  # type: ignore[attr-defined]
    module.transforms, module.functional = transforms, functional  # type: ignore[attr-defined]
    sys.modules.update({"torchaudio": module, "torchaudio.transforms": transforms, "torchaudio.functional": functional})
