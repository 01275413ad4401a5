"""The pitch tracker on sounds whose pitch is known."""

import numpy as np
import pytest

from mlx_ltxw.media.pitch import pitch_track
from tests.media.signals import RATE, noise, resonate, tone, vowel

CLOCK = np.arange(2 * RATE) / RATE
CONTOURS = {
    "flat": lambda base: np.full(len(CLOCK), float(base)),
    "sung": lambda base: base * 2 ** (0.25 * np.sin(2 * np.pi * 1.5 * CLOCK)),
    "vibrato": lambda base: base * 2 ** (0.05 * np.sin(2 * np.pi * 5.5 * CLOCK)),
    "falling": lambda base: base * 2 ** (0.25 - 0.25 * CLOCK),
}


@pytest.mark.parametrize("noise_ratio", [0.0, 0.3])
@pytest.mark.parametrize("base", [75, 100, 140, 200, 300, 400])
@pytest.mark.parametrize("contour", CONTOURS)
def test_a_vowel_is_followed(contour, base, noise_ratio):
    """98 % of the frames voiced, of those 98 % within 3 % of the truth, half of them within 0.5 %."""
    truth = CONTOURS[contour](base)
    times, f0, voiced = pitch_track(vowel(truth, noise_ratio), RATE)
    assert voiced[3:-3].mean() > 0.98
    error = np.abs(f0 / np.interp(times, CLOCK, truth) - 1)[voiced]
    assert (error < 0.03).mean() > 0.98
    assert np.median(error) < 0.005


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_any_rate_will_do(rate):
    found = pitch_track(tone(220, 1.0, rate), rate)
    assert len(found.times) == 100
    assert np.nanmedian(found.f0) == pytest.approx(220, rel=0.003)


def test_octave_traps():
    """A missing fundamental, a strong second harmonic, only odd harmonics: the period is 150 Hz in each."""
    for strengths in ({2: 1, 3: 1, 4: 1, 5: 1}, {1: 0.2, 2: 1, 3: 0.2}, {1: 1, 3: 1, 5: 1}, {1: 1, 2: 3, 4: 1, 5: 0.5}):
        x = sum(a * np.sin(2 * np.pi * 150 * n * CLOCK + n) for n, a in strengths.items())
        assert np.nanmedian(pitch_track(0.1 * x, RATE).f0) == pytest.approx(150, rel=0.01), strengths


@pytest.mark.parametrize("slope", [0, -3.01, -6.02])
def test_noise_has_no_pitch(slope):
    assert pitch_track(noise(4.0, slope=slope), RATE).voiced.mean() < 0.02


@pytest.mark.parametrize(("hertz", "width"), [(250, 60), (300, 80), (500, 80), (700, 60), (1000, 100)])
def test_a_formant_of_noise_has_none_either(hertz, width):
    """One narrow band of noise, the worst that a whisper can do."""
    assert pitch_track(resonate(noise(4.0), ((hertz, width),)), RATE).voiced.mean() < 0.1


def test_pauses_are_unvoiced():
    """A faint hum in a pause 40 dB down has a pitch, and is no speech."""
    x = np.concatenate([vowel(np.full(RATE, 120.0)), 0.001 * np.sin(2 * np.pi * 480 * np.arange(RATE) / RATE)])
    times, f0, voiced = pitch_track(x, RATE)
    assert voiced[times < 0.95].mean() > 0.97
    assert not voiced[times > 1.06].any()
    assert np.isnan(f0[~voiced]).all()
    assert not np.isnan(f0[voiced]).any()


def test_onset_and_end_lie_where_they_are():
    x = np.concatenate([np.zeros(RATE // 2), vowel(np.full(RATE, 150.0)), np.zeros(RATE // 2)])
    times, _, voiced = pitch_track(x, RATE)
    assert times[voiced][0] == pytest.approx(0.5, abs=0.03)
    assert times[voiced][-1] == pytest.approx(1.5, abs=0.03)


def test_level_and_rumble_do_not_matter():
    x = vowel(CONTOURS["sung"](150))
    whole = pitch_track(x, RATE)
    quiet = pitch_track(0.01 * x, RATE)
    assert np.array_equal(whole.voiced, quiet.voiced)
    assert np.allclose(whole.f0[whole.voiced], quiet.f0[quiet.voiced], rtol=1e-3)
    rumbling = pitch_track(x + 0.3 * np.sin(2 * np.pi * 30 * CLOCK) + 0.5, RATE)
    both = rumbling.voiced & whole.voiced
    assert both.mean() > 0.95
    assert np.median(np.abs(rumbling.f0 / whole.f0 - 1)[both]) < 0.005


def test_the_range_is_kept():
    x = vowel(np.full(RATE, 300.0))
    assert np.nanmedian(pitch_track(x, RATE, fmax=250.0).f0) == pytest.approx(150, rel=0.02)
    assert np.nanmedian(pitch_track(x, RATE, fmin=160.0).f0) == pytest.approx(300, rel=0.01)
    for fmin, fmax in ((50, 500), (300, 400), (60, 2000)):
        with pytest.raises(ValueError, match="octave"):
            pitch_track(x, RATE, fmin=fmin, fmax=fmax)


@pytest.mark.parametrize("samples", [0, 1, 100, 1000])
def test_short_and_silent_clips(samples):
    for wave in (np.zeros(samples), np.zeros((samples, 2)), noise(1.0)[:samples]):
        found = pitch_track(wave, RATE)
        assert len(found.times) == len(found.f0) == len(found.voiced) == -(-samples // 160)
        assert not found.voiced.any()
