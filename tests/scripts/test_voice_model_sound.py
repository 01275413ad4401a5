# ruff: noqa: E402
"""The voice model's data and measures: intonation, pitch, sentence identity, mel, faces."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from scripts.voice_model import data, faces, measure
from scripts.voice_model.corpus import SENTENCES, VOICES, caption, default_voice, random_caption


def pulses(f0, seconds=2.0, rate=16000):
    """A band-limited pulse train with two formant-like bumps: harmonics weighted, fundamental `f0`."""
    t = np.arange(int(seconds * rate)) / rate
    orders = np.arange(1, int(7000 / f0))
    weight = np.exp(-(((orders * f0 - 600) / 300) ** 2)) + 0.5 * np.exp(-(((orders * f0 - 1700) / 400) ** 2)) + 0.05
    return 0.1 * (weight[:, None] * np.cos(2 * np.pi * f0 * orders[:, None] * t)).sum(0) / weight.max()


@pytest.mark.parametrize("f0", [85.0, 100.0, 137.0, 200.0, 260.0])
def test_pitch_of_a_pulse_train_is_read_within_half_a_per_cent(f0):
    heard = measure.Voicing.of(pulses(f0))
    assert heard.fraction > 0.97
    assert np.abs(heard.f0[5:-5] / f0 - 1).max() < 0.005  # the ends see silence


def test_noise_is_unvoiced():
    noise = np.random.default_rng(0).normal(size=32000) * 0.1
    assert measure.Voicing.of(noise).fraction < 0.05


def test_a_pitch_three_and_a_half_per_cent_off_does_not_match():
    truth = measure.Voicing.of(pulses(100.0))
    assert measure.Voicing.of(pulses(101.5)).pitch_match(truth) > 0.98
    assert measure.Voicing.of(pulses(103.5)).pitch_match(truth) < 0.05


def test_level_is_in_decibels():
    loud, half = (measure.Voicing.of(pulses(100.0) * gain).level for gain in (1.0, 0.5))
    assert loud - half == pytest.approx(6.02, abs=0.01)


@pytest.mark.parametrize("base", [100.0, 200.0])
def test_an_accent_adds_whole_periods_and_a_fifth_of_pitch(base):
    voiced, energy = np.zeros(400, bool), np.zeros(400)
    voiced[20:300], energy[100] = True, 1.0
    f0 = data.contour(voiced, energy, base)
    assert f0[100] == pytest.approx(1.2 * base, rel=0.01)
    assert (f0 == base).sum() == 400 - 2 * 30  # two accents of 0.3 s
    extra = (f0 - base).sum() / 100  # periods beyond the flat voice's
    assert extra == pytest.approx(round(extra), abs=1e-9)


def test_intoned_speech_has_the_contour_and_keeps_its_level():
    flat = pulses(100.0, 3.0, data.HIGH_RATE)
    flat[48000:] *= 0.6  # the accents fall on the louder first second
    moving = data.intone(flat, 100.0)
    heard = measure.Voicing.of(moving[::3])
    assert heard.fraction > 0.95
    assert np.percentile(heard.f0[heard.voiced], 99) == pytest.approx(120, abs=3)
    assert np.median(heard.f0[150:280]) == pytest.approx(100, abs=0.3)
    assert np.sqrt((moving**2).mean()) == pytest.approx(np.sqrt((flat**2).mean()), rel=0.1)


def test_whispering_voice_files_have_breath_and_no_first_formant():
    whispered, plain = (data.voice_file(VOICES[0], whisper, natural=False) for whisper in (True, False))
    assert "pitch 209 209" in plain
    assert "breath 75" in whispered
    assert "formant 0 115 0 150" in whispered
    assert "breath 75" not in plain


def test_a_stretched_and_louder_clip_is_still_identified():
    rng = np.random.default_rng(1)
    kernel = np.hanning(9)[:, None]
    smooth = [np.apply_along_axis(np.convolve, 0, rng.normal(size=(200, 64)), kernel[:, 0], "same") for _ in range(5)]
    probe = np.repeat(smooth[3], 6, axis=0)[::5] + 0.7  # 20 % slower, 6 dB louder
    assert measure.identify(probe, smooth) == 3


def test_dtw_of_a_worked_example():
    a, b = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [2.0]])
    assert measure.dtw(a, b) == pytest.approx(1.0 / 5)  # 0-0, 1-0 or 1-2 costs one, 2-2; lengths 3 and 2


def test_the_drawn_mouth_opens_as_told():
    opening = torch.rand(2, 12, generator=torch.Generator().manual_seed(0))
    video = faces.render(torch.tensor([0, 5]), torch.tensor([1, 2]), opening)
    assert video.shape == (2, 3, 12, 128, 128)
    assert -1 <= float(video.min()) <= float(video.max()) <= 1
    assert float(faces.correlation(faces.measured_opening(video), opening).min()) > 0.99


def test_mouth_follows_the_envelope_at_the_frame_times():
    wave = torch.zeros(1, 64000)
    wave[:, 16000:32000] = torch.sin(torch.arange(16000) * 0.3)
    opening = faces.mouth_opening(wave)[0]
    assert opening.shape == (97,)
    assert float(opening[26:46].min()) > 0.9  # 1.1 s .. 1.9 s
    assert float(opening[:22].max()) == 0.0


def test_captions_follow_the_grammar():
    import random

    red = VOICES[0]
    assert caption(red, "whispering", "close your eyes", "in dim light") == (
        'a woman with red hair in dim light, (woman, whispering): "close your eyes"'
    )
    assert default_voice("man") is VOICES[4]
    seen = {random_caption(random.Random(i), red, SENTENCES[0], "", "") for i in range(40)}
    assert 'a woman, (woman): "close your eyes"' in seen
    assert any("unknownword" in text for text in seen)
