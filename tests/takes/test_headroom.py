"""Peaks of what is written stay below -1 dBTP, measured by FFmpeg; what is lower stays as it is."""

import numpy as np
import pytest

from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.loudness import loudness
from mlx_ltxw.media.mp4 import write_mp4
from mlx_ltxw.takes.headroom import headroom_gain, with_headroom

RATE = 48000


def noise(peak):
    wave = np.random.default_rng(0).normal(0, 1, (RATE, 2)).astype(np.float32)
    return wave * np.float32(peak / np.abs(wave).max())


def between_samples():
    """A sine at a quarter of the rate, sampled 45 degrees off its peaks: 0.9 in the samples, 1.27 between them."""
    place = np.arange(RATE) * np.pi / 2 + np.pi / 4
    wave = 0.9 * np.sqrt(2) * np.sin(place) * np.hanning(RATE)
    return np.stack([wave, wave], 1).astype(np.float32)


def white():
    """Evenly spread up to full scale: the most that AAC adds to."""
    return np.random.default_rng(1).uniform(-1, 1, (4 * RATE, 2)).astype(np.float32)


WAVES = {"full": noise(1.0), "0.9": noise(0.9), "between samples": between_samples(), "white": white()}


@pytest.mark.parametrize("wave", WAVES.values(), ids=WAVES)
def test_high_peaks_are_turned_down(wave, tmp_path):
    lower = with_headroom(wave, RATE)
    assert -4 < loudness(lower, RATE).true_peak <= -1
    np.testing.assert_allclose(lower / 10 ** (headroom_gain(wave, RATE) / 20), wave, rtol=1e-5, atol=1e-7)
    path = tmp_path / "a.mp4"
    write_mp4(path, [np.zeros((24 * len(wave) // RATE, 32, 32, 3), np.uint8)], 24, lower)
    assert loudness(read_audio(path, RATE), RATE).true_peak <= -1


@pytest.mark.parametrize("peak", [0.0, 0.01, 0.5, 0.7])
def test_others_stay(peak):
    wave = noise(peak)
    assert with_headroom(wave, RATE) is wave


def test_no_samples():
    wave = np.zeros((0, 2), np.float32)
    assert with_headroom(wave, RATE) is wave
