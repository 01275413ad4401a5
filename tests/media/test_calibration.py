"""Registers of recorded speech, its whispers, and sounds that are no speech, at five levels, three rates and as mp3.

Nothing here was heard when `mlx_ltxw.media.fitted` was made: the speakers (`scripts.registers.material.HELD_OUT`) and
the makers of the other sounds are others. The tables are printed.
"""

from collections import Counter
from functools import cache

import numpy as np
import pytest

from mlx_ltxw.media.audio import resample
from mlx_ltxw.media.measure import NO_SPEECH, REGISTERS, measure
from scripts.registers.material import HELD_OUT, through_mp3
from scripts.registers.voices import RECORDED, SOUNDS, recorded, revoiced
from tests.media.signals import RATE, noise, resonate

SECONDS = 4.0
CHANNELS = (  # dB, Hz, mp3
    (0, 16000, False), (-24, 8000, False), (-12, 22050, False), (6, 48000, False), (12, 8000, False), (0, 22050, True),
)  # fmt: skip
needs_recordings = pytest.mark.skipif(
    not all((SOUNDS / RECORDED[name]).exists() for name in HELD_OUT),
    reason="needs recorded speech (apt install asterisk-core-sounds-en-wav asterisk-core-sounds-it-wav)",
)
CLOCK = np.arange(int(SECONDS * RATE)) / RATE


def at_once(times, sound):
    out = np.zeros(len(CLOCK) + RATE)
    for time in times:
        start = min(int(time * RATE), len(out) - 1)
        out[start : start + len(sound)] += sound[: len(out) - start]
    return out[: len(CLOCK)]


def sounds():
    """{name: (N,) at 16 kHz}."""
    draw = np.random.default_rng(7)
    burst = draw.standard_normal(RATE // 5)
    fade = np.exp(-np.arange(len(burst)) / RATE / 0.006)
    pluck = [np.exp(-3 * CLOCK[:RATE]) * np.sin(2 * np.pi * f * CLOCK[:RATE]) for f in (262, 330, 392, 523, 294, 349)]
    gusts = np.interp(CLOCK, np.linspace(0, SECONDS, 9), draw.uniform(0.05, 1, 9))
    return {
        "white noise": noise(SECONDS), "pink noise": noise(SECONDS, slope=-3.01),
        "brown noise": noise(SECONDS, slope=-6.02),
        "wind": gusts * resonate(noise(SECONDS, slope=-6.02), ((320, 200),)),
        "whistling wind": gusts**2 * resonate(noise(SECONDS), ((700, 90), (1500, 300))),
        "tapping": at_once(np.arange(0.1, SECONDS, 0.31), burst * fade),
        "table taps": at_once(np.cumsum(draw.uniform(0.15, 0.5, 9)), resonate(burst * fade, ((180, 30), (900, 200)))),
        "clicks": at_once(np.arange(0.05, SECONDS, 0.25), np.r_[1.0, -1.0]),
        "sine": np.sin(2 * np.pi * 440 * CLOCK),
        "vibrato": np.sin(2 * np.pi * 440 * CLOCK + 5 * np.sin(2 * np.pi * 5.5 * CLOCK)),
        "beeps": np.sin(2 * np.pi * 1000 * CLOCK) * (CLOCK % 0.5 < 0.2),
        "chord": sum(np.sin(2 * np.pi * f * n * CLOCK) / n for f in (220, 277, 330) for n in (1, 2, 3, 4)),
        "tune": sum(at_once([0.6 * i], one) for i, one in enumerate(pluck)),
        "hum": sum(np.sin(2 * np.pi * 50 * n * CLOCK) / n for n in range(1, 12)),
        "hum and hiss": np.sin(2 * np.pi * 100 * CLOCK) + noise(SECONDS),
        "silence": np.zeros(len(CLOCK)), "constant": np.full(len(CLOCK), 0.1),
    }  # fmt: skip


@cache
def clips():
    """[(what it is, a name, (N,) at 16 kHz with an rms of 0.1)]."""
    made = []
    for language in HELD_OUT:
        for number in range(3):
            speech = recorded(language, np.random.default_rng(number), SECONDS)[: len(CLOCK)]
            whisper = revoiced(speech, breath=1.0, tilt=2.0)
            soft = revoiced(speech, breath=0.5, tilt=-6.0, first=4.0)
            made += [("normal", language, speech), ("whispering", language, whisper), ("soft", language, soft)]
    made += [(NO_SPEECH, name, wave) for name, wave in sounds().items()]
    scaled = []
    for kind, name, wave in made:
        level = 1.0 if name == "constant" else 0.1 / max(float(np.sqrt((wave**2).mean())), 1e-9)
        scaled.append((kind, name, (wave * level).astype(np.float32)))
    return scaled


@cache
def measured():
    """[(what it is, name, channel, measurement)]; sounds without speech through two channels, others through all."""
    found = []
    for number, (kind, name, wave) in enumerate(clips()):
        chosen = CHANNELS if kind != NO_SPEECH else [CHANNELS[number % 6], CHANNELS[(number + 3) % 6]]
        for level, rate, coded in chosen:
            heard = 10 ** (level / 20) * resample(wave[:, None], RATE, rate)[:, 0]
            heard = through_mp3(heard / 8, rate) * 8 if coded else heard  # mp3 holds no more than 1
            found.append((kind, name, (level, rate, coded), measure(heard, rate)))
    return found


@needs_recordings
def test_confusion_at_five_levels_and_three_rates(capsys):
    """What it is does not depend on the level, the rate or the codec; soft by level alone is said as such."""
    columns = (*REGISTERS, "mixed", NO_SPEECH)
    table = Counter((kind, one.register) for kind, _, _, one in measured())
    with capsys.disabled():
        print(f"\n\n{len(measured())} clips by speakers and sounds not fitted to; rows: what it is, columns: measured")
        print(f"{'':12}" + "".join(f"{name:>12}" for name in columns))
        for kind in (*REGISTERS, NO_SPEECH):
            print(f"{kind:12}" + "".join(f"{table[kind, name]:12}" for name in columns))
    voiced = {"normal", "soft"}
    right = [one.register == kind or {one.register, kind} <= voiced for kind, _, _, one in measured()]
    assert np.mean(right) >= 0.97
    for kind, name, channel, one in measured():
        if kind in ("whispering", NO_SPEECH):
            assert one.register == kind or one.confidence < 0.8, (kind, name, channel, one)
        if one.rests_on.startswith("level alone"):
            assert one.confidence < 0.75
            assert channel[0] < 0
    soft = [one.register == "soft" for kind, _, _, one in measured() if kind == "soft"]
    assert np.mean(soft) >= 0.8


@needs_recordings
def test_confidence_is_what_comes_true(capsys):
    """Of the answers given with a confidence, about that share is right; soft by level alone cannot be judged here.

    More may be right than was said: with the sounds of Debian 12 all 130 are, which is 0.08 of modesty. Fewer may not.
    """
    said, right = [], []
    for kind, _, _, one in measured():
        if not one.rests_on.startswith("level alone"):
            said.append(one.confidence)
            right.append(one.register == kind)
    said, right = np.array(said), np.array(right)
    error = boast = 0.0
    lines = []
    for low, high in ((0, 0.5), (0.5, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 0.95), (0.95, 1.01)):
        held = (said >= low) & (said < high)
        if held.any():
            claimed, true = said[held].mean(), right[held].mean()
            error += held.mean() * abs(claimed - true)
            boast += held.mean() * max(0.0, claimed - true)
            lines.append(f"{low:.2f} to {min(high, 1):.2f}: {held.sum():4} said {claimed:.3f}, right {true:.3f}")
    with capsys.disabled():
        print("\n\nconfidence against accuracy, expected calibration error", f"{error:.3f}", *lines, sep="\n")
    assert error < 0.12
    assert boast < 0.03
    assert right[said > 0.9].mean() > 0.95
