"""What the vocoder is trained against: five period discriminators (HiFi-GAN) and three over log-spectrograms."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PERIODS, SPECTRA, CHANNELS = (2, 3, 5, 7, 11), (1024, 512, 256), (16, 32, 64, 64)


class Period(nn.Module):
    def __init__(self, period: int) -> None:
        super().__init__()
        self.period = period
        widths = (1, *CHANNELS)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0)) for a, b in pairwise(widths))
        self.head = nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """wave (B, N) -> the features of every layer, the score last."""
        length = wave.shape[1] // self.period * self.period
        x = wave[:, :length].reshape(len(wave), 1, -1, self.period)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return [*features, self.head(x)]


class Spectrum(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(size))
        widths = (1, 16, 16, 16, 16)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, (9, 3), (2 if i else 1, 1), (4, 1)) for i, (a, b) in enumerate(pairwise(widths))
        )
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, wave: Tensor) -> list[Tensor]:
        spectrum = torch.stft(wave, self.size, self.size // 4, window=self.window, return_complex=True)
        x = 0.5 * torch.log(spectrum.real**2 + spectrum.imag**2 + 1e-4)[:, None]
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return [*features, self.head(x)]


class Discriminators(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([*(Period(p) for p in PERIODS), *(Spectrum(s) for s in SPECTRA)])

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        return [part(wave) for part in self.parts]


def discriminator_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    return sum(((1 - r[-1]) ** 2).mean() + (f[-1] ** 2).mean() for r, f in zip(real, fake, strict=True))


def generator_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """(least-squares adversarial loss, feature matching), summed over the discriminators."""
    adversarial = sum(((1 - f[-1]) ** 2).mean() for f in fake)
    matching = sum(
        (a.detach() - b).abs().mean() / (a.detach().abs().mean() + 1e-3)
        for r, f in zip(real, fake, strict=True)
        for a, b in zip(r[:-1], f[:-1], strict=True)
    )
    return adversarial, matching
