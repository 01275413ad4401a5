"""Resampling against torchaudio's published kernel, evaluated by torch."""

import math

import numpy as np
import pytest

from mlx_ltxw.media.resample import resample, resample_blocks

torch = pytest.importorskip("torch")

RATES = [(44100, 16000), (48000, 16000), (8000, 16000), (22050, 16000), (16000, 48000), (2401, 2400), (48000, 44100)]


def torchaudio_resample(wave, rate, target):
    """`torchaudio.functional.resample` by its documentation: Hann-windowed sinc, width 6, rolloff 0.99, in fp32."""
    step, phases = rate // math.gcd(rate, target), target // math.gcd(rate, target)
    cut_off = min(step, phases) * 0.99
    width = math.ceil(6 * step / cut_off)
    at = torch.arange(-width, width + step, dtype=torch.float32)[None, None] / step
    t = torch.arange(0, -phases, -1, dtype=torch.float32)[:, None, None] / phases + at
    t = (t * cut_off).clamp(-6, 6)
    window = torch.cos(t * math.pi / 6 / 2) ** 2
    kernel = torch.sinc(t) * window * (cut_off / step)
    padded = torch.nn.functional.pad(torch.from_numpy(wave.T.copy())[:, None], (width, width + step))
    made = torch.nn.functional.conv1d(padded, kernel, stride=step).transpose(1, 2).reshape(wave.shape[1], -1)
    return made[:, : math.ceil(phases * len(wave) / step)].numpy().T


@pytest.mark.parametrize(("rate", "target"), RATES)
def test_the_official_trainers_kernel(rate, target):
    wave = np.random.default_rng(0).standard_normal((rate // 10 + 17, 2)).astype(np.float32)
    expected = torchaudio_resample(wave, rate, target)
    found = resample(wave, rate, target)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 3e-6


@pytest.mark.parametrize(("rate", "target"), [(44100, 16000), (16000, 48000), (44101, 16000)])
@pytest.mark.parametrize("size", [1, 777, 20000])
def test_blocks_give_the_same_samples(rate, target, size):
    wave = np.random.default_rng(1).standard_normal((3001 if size == 1 else 30001, 1)).astype(np.float32)
    blocks = resample_blocks((wave[at : at + size] for at in range(0, len(wave), size)), rate, target, 1)
    assert np.abs(np.concatenate(list(blocks)) - resample(wave, rate, target)).max() < 2e-6
