"""Mels and STFT bases in PyTorch: the audio VAE's log-mel, and the buffers that the bandwidth extension stores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.reference.torchaudio_stand_in import slaney_filterbank

HOP = 160


class LogMel(torch.nn.Module):
    """waveform (B, N) at 16 kHz -> natural-log mel (B, 1 + N // 160, 64): periodic Hann, magnitude, slaney filters."""

    def __init__(self, floor: float = 1e-5) -> None:
        super().__init__()
        self.floor = floor
        self.register_buffer("window", torch.hann_window(1024))
        self.register_buffer("bank", slaney_filterbank(513, 0.0, 8000.0, 64, 16000))

    def forward(self, wave: Tensor) -> Tensor:
        spectrum = torch.stft(wave, 1024, HOP, window=self.window, center=True, pad_mode="reflect", return_complex=True)
        magnitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-12)
        mel = magnitude.transpose(1, 2) @ self.bank  # (B, T, 64)
        return torch.log(mel.clamp_min(1e-5)) if self.floor == 1e-5 else torch.log(mel + self.floor)


def stft_bases(size: int) -> tuple[Tensor, Tensor]:
    """Forward and inverse basis (2 * bins, 1, size): real rows, then imaginary rows, times a periodic Hann window."""
    bins = size // 2 + 1
    angle = 2 * math.pi * torch.arange(bins, dtype=torch.float64)[:, None] * torch.arange(size)[None] / size
    basis = torch.cat([torch.cos(angle), -torch.sin(angle)])
    window = torch.hann_window(size, dtype=torch.float64)
    weight = torch.full((bins,), 2.0 / size, dtype=torch.float64)
    weight[0] = weight[-1] = 1.0 / size
    inverse = basis * weight.repeat(2)[:, None]
    return (basis * window)[:, None].float(), (inverse * window)[:, None].float()


def fill_mel_stft(mel_stft: torch.nn.Module, size: int = 512, mels: int = 64, rate: int = 16000) -> None:
    """Writes the bases and the mel filters into the official `MelSTFT` (its constructor leaves zeros)."""
    forward, inverse = stft_bases(size)
    bank = slaney_filterbank(size // 2 + 1, 0.0, rate / 2, mels, rate).T
    mel_stft.stft_fn.forward_basis.copy_(forward)
    mel_stft.stft_fn.inverse_basis.copy_(inverse)
    mel_stft.mel_basis.copy_(bank)
