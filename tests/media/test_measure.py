"""Each figure against sounds for which it is known."""

import re
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio, write_wav
from mlx_ltxw.media.measure import measure
from mlx_ltxw.media.mp4 import write_mp4
from tests.media.signals import RATE, moving_picture, needs_espeak, noise, speak, tone, vowel

TEXT = "close your eyes and listen to the rain outside, nobody knows how long the winter will last"


@pytest.mark.parametrize("ratio", [0, 5, 10, 15, 20])
def test_harmonics_to_noise(ratio):
    """A low-passed pulse train in white noise of known power: the correlation at its period is S / (S + N)."""
    clock = np.arange(3 * RATE) / RATE
    x = sum(np.cos(2 * np.pi * 160 * n * clock + n * n) for n in range(1, 20))
    x = x / x.std() + 10 ** (-ratio / 20) * np.random.default_rng(0).standard_normal(len(x))
    assert measure(0.1 * x, RATE).hnr == pytest.approx(ratio, abs=1.0)


@pytest.mark.parametrize(("slope", "tilt"), [(0, 0.0), (-3.01, -3.01), (-6.02, -6.02), (3.01, 3.01)])
def test_tilt_of_coloured_noise(slope, tilt):
    assert measure(noise(6.0, slope=slope), RATE).tilt == pytest.approx(tilt, abs=0.3)


def test_centroid():
    assert measure(noise(4.0), RATE).centroid == pytest.approx(4000, rel=0.03)
    assert measure(tone(1000, 2.0), 48000).centroid == pytest.approx(1000, rel=0.01)
    assert measure(tone(1000, 2.0) + tone(3000, 2.0), 48000).centroid == pytest.approx(2000, rel=0.01)


@pytest.mark.parametrize("rate", [2.0, 4.0, 6.0])
def test_syllables_of_a_pulsing_sound(rate):
    clock = np.arange(4 * RATE) / RATE
    for carrier in (noise(4.0), vowel(np.full(len(clock), 120.0))):
        found = measure(carrier * (0.5 - 0.49 * np.cos(2 * np.pi * rate * clock)), RATE)
        assert found.rate == pytest.approx(rate, rel=0.1)


@needs_espeak
@pytest.mark.parametrize("voice", ["m3", "f2", "whisper", "whisperf"])
def test_syllables_of_speech(tmp_path, voice):
    """Counted by hand; and a slow speaker has fewer a second than a fast one."""
    sentences = {"seven small birds sat on the garden wall": 10, "close your eyes and listen to the rain": 9}
    spoken = 0.0
    for text in sentences:
        found = measure(speak(tmp_path / "a.wav", voice, text))
        spoken += found.rate * (found.duration - 0.35)  # espeak-ng ends in about 0.3 s of silence
    assert spoken == pytest.approx(sum(sentences.values()), rel=0.25)
    slow, fast = (measure(speak(tmp_path / "a.wav", voice, text, "-s", str(wpm))).rate for wpm in (110, 200))
    assert fast > 1.3 * slow


def test_voiced_share_and_f0():
    """Two seconds of voice, one of noise: two thirds; the pause between counts for nothing."""
    parts = [vowel(np.full(2 * RATE, 130.0)), np.zeros(RATE), noise(1.0)]
    found = measure(np.concatenate(parts), RATE)
    assert found.voiced == pytest.approx(2 / 3, abs=0.04)
    assert found.f0 == pytest.approx(130, rel=0.005)
    assert found.duration == 4.0


def test_a_short_consonant_is_part_of_the_voice():
    """Noise of 100 ms between vowels counts as voiced speech, noise of 400 ms does not."""

    def share(gap):
        voice = vowel(np.full(RATE // 2, 130.0))
        return measure(np.concatenate([voice, noise(gap), voice]), RATE).voiced

    assert share(0.1) > 0.97
    assert share(0.4) == pytest.approx(1 / 1.4, abs=0.05)


def test_a_click_hides_no_whisper():
    """65 ms near full scale, as a causal decoder may begin with, against speech 40 dB below."""
    quiet = 0.05 * vowel(np.full(3 * RATE, 130.0))
    clicked = quiet.copy()
    clicked[:1040] = 0.9 * np.sign(noise(0.065))
    found = measure(clicked, RATE)
    assert found.voiced > 0.9
    assert found.f0 == pytest.approx(130, rel=0.01)


def test_silence_implies_nothing():
    for wave in (np.zeros(RATE), np.zeros((48000, 2)), 1e-5 * noise(1.0)):
        found = measure(wave, RATE)
        assert (found.register, found.lufs, found.voiced, found.rate) == ("no speech", -70.0, 0.0, 0.0)
        assert (found.confidence, found.rests_on) == (0.97, "silence")
        assert set(found.by_second) == {"no speech"}
        assert (found.f0, found.hnr, found.tilt, found.centroid) == (None, None, None, None)


def test_very_short_clips_have_figures_and_little_confidence():
    for samples in (1, 10, 400, 3000):
        found = measure(vowel(np.full(RATE, 130.0))[8000 : 8000 + samples], RATE)
        assert found.confidence < 0.5
        assert np.isfinite(found.lufs)


@needs_espeak
def test_a_register_does_not_depend_on_the_number_of_channels(tmp_path):
    """Between -26 and -23 LUFS a mono clip would be soft by its own figure; both loudspeakers play it at -24 to -20."""
    x = read_audio(speak(tmp_path / "a.wav", "m3", TEXT), 22050, 1)[:, 0]
    x *= 10 ** ((-24.5 - measure(x, 22050).lufs) / 20)
    mono, both = measure(x, 22050), measure(np.stack([x, x], 1), 22050)
    assert both.lufs == pytest.approx(mono.lufs + 3.01, abs=0.02)
    assert mono.register == both.register == "normal"
    assert mono.confidence == pytest.approx(both.confidence, abs=0.01)


@needs_espeak
def test_channels_that_cancel_each_other_are_heard(tmp_path):
    """A microphone wired the wrong way round: its sum is silence, its sound is not."""
    x = read_audio(speak(tmp_path / "a.wav", "m3", TEXT), 22050, 1)[:, 0]
    both, opposite = measure(np.stack([x, x], 1), 22050), measure(np.stack([x, -0.95 * x], 1), 22050)
    assert opposite.register == both.register == "normal"
    assert opposite.f0 == pytest.approx(both.f0, rel=1e-3)
    assert "opposite phase" in opposite.notes[0]
    assert not both.notes
    assert not measure(np.stack([x, 0 * x], 1), 22050).notes
    assert not measure(np.stack([x, np.roll(x, 300)], 1), 22050).notes


@needs_espeak
def test_parts_of_other_registers_make_a_clip_mixed(tmp_path):
    parts = {name: read_audio(speak(tmp_path / "a.wav", voice, TEXT, *more), 22050, 1)[:, 0]
             for name, voice, *more in (("n", "m3"), ("s", "m3", "-a", "25"), ("w", "whisper"))}  # fmt: skip
    for names in ("nw", "wn", "sw", "ns", "sn"):
        found = measure(np.concatenate([parts[name] for name in names]), 22050)
        assert found.register == "mixed", names
        letters = "".join(name[0] for name in found.by_second if name != "no speech")
        assert re.fullmatch(f"{names[0]}{{3,7}}{names[1]}{{3,7}}", letters), (names, letters)
    assert measure(np.concatenate([parts["n"], np.zeros(5 * 22050, np.float32)]), 22050).register == "normal"


@needs_espeak
def test_soft_by_level_is_sure_only_beside_a_reference(tmp_path):
    x = read_audio(speak(tmp_path / "a.wav", "m3", TEXT), 22050, 1)[:, 0]
    normal, low = measure(x, 22050), measure(10 ** (-14 / 20) * x, 22050)
    assert (low.register, low.rests_on.startswith("level alone")) == ("soft", True)
    assert low.confidence < 0.75
    told = measure(10 ** (-14 / 20) * x, 22050, reference=normal)
    assert (told.register, told.rests_on) == ("soft", "14.0 dB below the reference")
    assert told.confidence > 0.9
    assert measure(10 ** (-14 / 20) * x, 22050, reference=low).register == "normal"  # it is as loud as that


def test_an_hour_takes_no_more_memory_than_its_figures(tmp_path):
    """Four minutes of 48 kHz stereo: 92 MB as numbers; a third at most is held at a time."""
    with soundfile.SoundFile(tmp_path / "a.wav", "w", 48000, 2) as file:
        block = np.repeat(noise(10.0, 48000)[:, None], 2, 1)
        for _ in range(24):
            file.write(block)
    script = (
        "import resource, sys; from mlx_ltxw.media.measure import measure; measure(sys.argv[1])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )

    def peak(path):
        run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
        return int(run.stdout) * (1 if sys.platform == "darwin" else 1024) / 1e6

    write_wav(tmp_path / "b.wav", block, 48000)
    assert peak(tmp_path / "a.wav") - peak(tmp_path / "b.wav") < 30


def test_files_and_samples_read_the_same(tmp_path):
    x = vowel(np.full(3 * RATE, 130.0)).astype(np.float32)
    write_wav(tmp_path / "a.wav", x, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "a.flac", x, RATE)
    stereo, mono = measure(tmp_path / "a.wav"), measure(tmp_path / "a.flac")
    assert stereo == measure(np.stack([x, x], 1), RATE)
    assert mono.lufs == pytest.approx(measure(x, RATE).lufs, abs=0.01)
    write_mp4(tmp_path / "a.mp4", [moving_picture(48, 32, 32)], 24, tone(200, 2.0))
    assert measure(tmp_path / "a.mp4").f0 == pytest.approx(200, rel=0.005)


def test_differences():
    one, two = measure(vowel(np.full(RATE, 100.0)), RATE), measure(0.1 * vowel(np.full(RATE, 150.0)), RATE)
    difference = two.minus(one)
    assert difference["lufs"] == pytest.approx(-20, abs=1.0)
    assert difference["f0"] == pytest.approx(50, abs=1.0)
    assert measure(noise(1.0), RATE).minus(one)["f0"] is None
    assert set(difference) == {
        "lufs", "true_peak", "voiced", "f0", "hnr", "tilt", "centroid", "rate", "duration",
    }  # fmt: skip


def test_unmeasurable_clips_are_named(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.full(4800, np.nan), 48000, subtype="FLOAT")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), 48000)
    (tmp_path / "text.wav").write_text("hello")
    for name, message in {"nan.wav": "no numbers", "empty.wav": "is empty", "text.wav": "cannot be read"}.items():
        with pytest.raises(UserError, match=message) as raised:
            measure(tmp_path / name)
        assert name in raised.value.message
    with pytest.raises(ValueError, match="rate"):
        measure(np.zeros(100))


def test_four_seconds_take_less_than_a_third(tmp_path):
    """Processor time, which other work on the machine does not lengthen; the best of five."""
    write_wav(tmp_path / "a.wav", vowel(np.full(4 * RATE, 130.0)), RATE)
    spent = []
    for _ in range(5):
        start = time.process_time()
        measure(tmp_path / "a.wav")
        spent.append(time.process_time() - start)
    assert min(spent) < 0.3
