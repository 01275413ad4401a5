"""Loudness against the test signals of EBU Tech 3341 and closed forms."""

import numpy as np
import pytest

from mlx_ltxw.media.loudness import loudness
from tests.media.signals import noise, tone


def decibel(level):
    return 10 ** (level / 20)


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000])
@pytest.mark.parametrize("level", [-23.0, -33.0])
def test_ebu_cases_1_and_2(rate, level):
    """A 1 kHz sine on both channels at -23 dBFS has -23 LUFS."""
    found = loudness(tone(1000, 3.0, rate, decibel(level)), rate)
    assert found.lufs == pytest.approx(level, abs=0.1)
    assert found.true_peak == pytest.approx(level, abs=0.1)


def test_ebu_case_3_quiet_parts_do_not_count():
    wave = np.concatenate([tone(1000, s, amplitude=decibel(level)) for level, s in ((-36, 5), (-23, 30), (-36, 5))])
    assert loudness(wave, 48000).lufs == pytest.approx(-23.0, abs=0.1)


def test_one_channel_has_half_the_energy():
    wave = tone(1000, 2.0)
    assert loudness(wave[:, :1], 48000).lufs == pytest.approx(loudness(wave, 48000).lufs - 3.01, abs=0.01)


def test_a_peak_between_samples():
    """A faded sine at a quarter of the rate, sampled 45 degrees off its peaks, of which the samples reach 0.707."""
    samples = decibel(-6) * np.sin(np.pi / 2 * np.arange(48000) + np.pi / 4) * np.hanning(48000)
    wave = np.repeat(samples[:, None], 2, 1).astype(np.float32)
    assert 20 * np.log10(np.abs(wave).max()) == pytest.approx(-9.01, abs=0.01)
    assert loudness(wave, 48000).true_peak == pytest.approx(-6.0, abs=0.4)


@pytest.mark.parametrize("level", [-60.0, -100.0])
def test_quiet_peaks_are_as_exact_as_loud_ones(level):
    assert loudness(tone(1000, 1.0, amplitude=decibel(level)), 48000).true_peak == pytest.approx(level, abs=0.05)


def test_a_peak_in_the_last_instant_is_seen():
    wave = tone(1000, 1.05, amplitude=decibel(-40))
    wave[-480:-240] = 0.5
    assert loudness(wave, 48000).true_peak > -7


@pytest.mark.parametrize("seconds", [0.001, 0.05, 0.2, 0.39])
def test_a_short_clip_counts_as_if_it_went_on(seconds):
    assert loudness(tone(1000, seconds, amplitude=decibel(-20)), 48000).lufs == pytest.approx(-20.0, abs=0.5)


def test_long_clips_go_in_parts():
    """More than one frame of 2^20 samples: the same as its half, as the noise is stationary."""
    wave = np.repeat(noise(30.0, 48000)[:, None], 2, 1).astype(np.float32)
    half = loudness(wave[: len(wave) // 2], 48000)
    assert loudness(wave, 48000).lufs == pytest.approx(half.lufs, abs=0.1)


def test_silence_has_the_lowest_figures():
    assert loudness(np.zeros((48000, 2), np.float32), 48000) == (-70.0, -120.0)
    assert loudness(tone(1000, 1.0, amplitude=decibel(-90)), 48000).lufs == -70.0
