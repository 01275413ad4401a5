"""The offset of decoded sound: gone below what 16 bits hold, with all that can be heard left as it was."""

import numpy as np
import pytest
import scipy.signal

from mlx_ltxw.models.audio_vae import remove_offset
from mlx_ltxw.models.audio_vae.offset import low_pass


def sine(hertz, rate, seconds=3.0):
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    return np.stack([wave, -wave], 1).astype(np.float32)


@pytest.mark.parametrize("rate", [16000, 24000, 48000])
def test_the_response_above_20_hz(rate):
    """By SciPy: the sound's gain there is within 0.0001 dB of one."""
    hertz = np.geomspace(20, rate / 2, 4000)
    _, response = scipy.signal.freqz(low_pass(rate), worN=hertz, fs=rate)
    assert np.abs(response).max() < 1e-5
    assert low_pass(rate).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("hertz", [20, 50, 1000, 15000])
def test_tones_stay(hertz):
    wave = sine(hertz, 48000)
    kept = remove_offset(wave + np.float32(4e-4), 48000)
    inner = slice(9600, -9600)  # away from the ends, where a tone is cut
    assert np.abs(kept - wave)[inner].max() < 1e-5
    assert kept.dtype == np.float32


@pytest.mark.parametrize("samples", [1, 100, 7000, 100_000])
def test_an_offset_goes_to_the_last_sample(samples):
    offset = np.tile(np.array([[4e-4, -2e-4]], np.float32), (samples, 1))
    assert np.abs(remove_offset(offset, 48000)).max() < 1e-8


def test_it_is_the_filter_it_says():
    """Against SciPy's convolution of a sound that is quiet at its ends."""
    wave = np.random.default_rng(0).normal(0, 0.1, (60_000, 2)).astype(np.float32)
    wave[:20_000] = wave[-20_000:] = 0
    slow = scipy.signal.fftconvolve(wave.astype(np.float64), low_pass(48000)[:, None], mode="same", axes=0)
    np.testing.assert_allclose(remove_offset(wave, 48000), wave - slow, atol=1e-7)


def test_nothing_of_nothing():
    assert remove_offset(np.zeros((0, 2), np.float32), 48000).shape == (0, 2)
