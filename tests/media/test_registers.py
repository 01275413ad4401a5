"""Registers of synthetic speech: the confusion table, and what must not change a verdict."""

from collections import Counter

import numpy as np
import pytest

from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.measure import REGISTERS, measure
from tests.media.signals import RATE, needs_espeak, speak, whispered

pytestmark = needs_espeak

SENTENCES = (
    "the red car turned left at the second light",
    "nobody knows how long the winter will last",
    "please bring me a glass of cold water",
)
VOICES = ("m1", "m2", "m3", "m7", "f1", "f2", "f4", "f5")
WHISPERS = {
    "whisper": (), "whisper loud": ("-a", "200"), "whisper quiet": ("-a", "25"),
    "whisper slow": ("-s", "130", "-p", "80"), "whisperf": (), "whisperf quiet": ("-a", "25"),
    "whisperf low": ("-p", "20"),
}  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """{(register, voice, sentence): file}: 69 clips, espeak-ng's soft speech being a quarter of the amplitude."""
    folder = tmp_path_factory.mktemp("speech")
    made = {}

    def add(register, name, voice, *options):
        for i, text in enumerate(SENTENCES):
            made[register, name, i] = speak(folder / f"{register}-{name}-{i}.wav", voice, text, *options)

    for voice in VOICES:
        add("normal", voice, voice)
        add("soft", voice, voice, "-a", "25")
    for name, options in WHISPERS.items():
        add("whispering", name, name.split()[0], *options)
    return made


@pytest.fixture(scope="module")
def measured(clips):
    return {key: measure(path) for key, path in clips.items()}


def test_confusion_table(measured, capsys):
    """Every clip gets its register (at least 95 % are asked for), and with confidence."""
    table = Counter((true, found.register) for (true, _, _), found in measured.items())
    with capsys.disabled():
        print(f"\n\n{len(measured)} espeak-ng clips, {'rows: spoken, columns: measured':>40}")
        print(f"{'':12}" + "".join(f"{name:>12}" for name in REGISTERS))
        for true in REGISTERS:
            print(f"{true:12}" + "".join(f"{table[true, found]:12}" for found in REGISTERS))
        for true in REGISTERS:
            rows = np.array([(m.voiced, m.lufs, m.hnr, m.tilt) for k, m in measured.items() if k[0] == true])
            low, high = rows.min(axis=0), rows.max(axis=0)
            names = ("voiced", "LUFS", "HNR dB", "tilt dB/octave")
            print(f"{true:12}" + ", ".join(f"{n} {a:.2f} to {b:.2f}" for n, a, b in zip(names, low, high, strict=True)))
    right = sum(table[name, name] for name in REGISTERS)
    assert len(measured) >= 60
    assert right >= 0.95 * len(measured)
    for (true, _, _), found in measured.items():
        assert found.confidence > 0.75 if true != "soft" else 0.5 < found.confidence < 0.75  # the amplitude alone


def test_voicing_is_far_from_its_threshold(measured):
    for (register, _, _), found in measured.items():
        assert found.voiced < 0.1 if register == "whispering" else found.voiced > 0.8


@pytest.mark.parametrize("gain", [0.003, 0.03, 4.0])
def test_loudness_does_not_make_a_whisper(clips, gain):
    for (register, voice, sentence), path in clips.items():
        if sentence == 0 and voice in ("m3", "f2", "whisper", "whisperf"):
            found = measure(gain * read_audio(path, RATE, 1), RATE)
            assert (found.register == "whispering") == (register == "whispering")


@pytest.mark.parametrize("voice", VOICES)
def test_the_same_speech_without_its_voice_is_whispering(clips, voice):
    """A whisper of another make: a voice's own formants fed with noise."""
    for sentence in range(len(SENTENCES)):
        speech = read_audio(clips["normal", voice, sentence], RATE, 1)[:, 0]
        found = measure(whispered(speech), RATE)
        assert found.register == "whispering"
        assert found.voiced < 0.2


@pytest.mark.parametrize("ratio", [20, 10])
def test_noise_around_it_does_not_silence_a_voice(clips, ratio):
    draw = np.random.default_rng(0)
    for voice in ("m3", "f2"):
        speech = read_audio(clips["normal", voice, 1], RATE, 1)[:, 0]
        hiss = draw.standard_normal(len(speech)) * speech.std() * 10 ** (-ratio / 20)
        assert measure(speech + hiss, RATE).register == "normal"
