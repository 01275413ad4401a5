"""Sounds that are no speech, made by rule: noises, knocks, tones, chords and what moves slowly like weather.

Each maker takes a random generator and returns about `seconds` of (N,) at 48 kHz, peak 0.5.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RATE = 48000
Maker = Callable[[np.random.Generator, float], np.ndarray]


def coloured(draw: np.random.Generator, count: int, slope: float) -> np.ndarray:
    """Noise (count,) whose density falls by `slope` dB an octave, rms 1."""
    hertz = np.fft.rfftfreq(count, 1 / RATE)
    hertz[0] = hertz[1]
    spectrum = np.fft.rfft(draw.standard_normal(count)) * np.maximum(hertz, 30.0) ** (slope / 6.0206)
    wave = np.fft.irfft(spectrum, count)
    return wave / wave.std()


def band(wave: np.ndarray, low: float, high: float) -> np.ndarray:
    """Only what lies between, with skirts of an octave."""
    hertz = np.fft.rfftfreq(len(wave), 1 / RATE) + 1e-9
    gain = 1 / np.sqrt((1 + (low / hertz) ** 6) * (1 + (hertz / high) ** 6))
    return np.fft.irfft(np.fft.rfft(wave) * gain, len(wave))


def wander(draw: np.random.Generator, count: int, hertz: float) -> np.ndarray:
    """A random curve (count,) that changes about `hertz` times a second, mean 0, deviation 1."""
    knots = draw.standard_normal(max(4, int(count / RATE * hertz * 2) + 4))
    curve = np.interp(np.linspace(0, len(knots) - 1, count), np.arange(len(knots)), knots)
    return (curve - curve.mean()) / max(curve.std(), 1e-9)


def steady(draw: np.random.Generator, seconds: float) -> np.ndarray:
    return coloured(draw, int(seconds * RATE), draw.uniform(-9, 4))


def narrow(draw: np.random.Generator, seconds: float) -> np.ndarray:
    low = 10 ** draw.uniform(2, 3.6)
    return band(coloured(draw, int(seconds * RATE), 0), low, low * 2 ** draw.uniform(0.3, 3))


def swelling(draw: np.random.Generator, seconds: float) -> np.ndarray:
    """Noise whose level goes up and down, regularly or not, at 0.3 to 8 Hz."""
    count = int(seconds * RATE)
    rate = 10 ** draw.uniform(-0.5, 0.9)
    if draw.random() < 0.5:
        depth = draw.uniform(0.5, 1)
        level = 1 - depth * (0.5 + 0.5 * np.sin(2 * np.pi * rate * np.arange(count) / RATE + draw.uniform(0, 6)))
    else:
        level = 10 ** (draw.uniform(4, 14) * wander(draw, count, rate) / 20)
    return coloured(draw, count, draw.uniform(-9, 3)) * level


def wind(draw: np.random.Generator, seconds: float) -> np.ndarray:
    """Two colours of noise whose mixture and level wander."""
    count = int(seconds * RATE)
    gust = wander(draw, count, 10 ** draw.uniform(-0.6, 0.3))
    low = band(coloured(draw, count, -6), 40, 10 ** draw.uniform(2.3, 2.9))
    high = band(coloured(draw, count, -3), 300, 10 ** draw.uniform(2.9, 3.6))
    return low * 10 ** (draw.uniform(2, 8) * gust / 20) + draw.uniform(0.05, 0.5) * high * 10 ** (
        draw.uniform(4, 12) * gust / 20
    )


def knocks(draw: np.random.Generator, seconds: float) -> np.ndarray:
    """Taps, clicks, steps, keys: decays of noise and of resonances, in a rhythm or at random."""
    count = int(seconds * RATE)
    out = np.zeros(count + RATE)
    rate = 10 ** draw.uniform(-0.1, 1.1)
    jitter = draw.choice([0.0, 0.1, 0.5])
    modes = 10 ** draw.uniform(2, 3.8, draw.integers(1, 5))
    decay, click = 10 ** draw.uniform(-3, -0.9), draw.uniform(0, 1)
    at = draw.uniform(0, 0.3)
    clock = np.arange(int(0.6 * RATE)) / RATE
    while at < seconds:
        tuned = modes * (1 + jitter * 0.2 * draw.standard_normal(len(modes)))
        ring = sum(np.sin(2 * np.pi * f * clock) * np.exp(-clock / decay) for f in tuned) / len(modes)
        burst = draw.standard_normal(len(clock)) * np.exp(-clock / (decay * draw.uniform(0.2, 1)))
        start = int(at * RATE)
        level = 10 ** (6 * jitter * draw.standard_normal() / 20)
        out[start : start + len(clock)] += level * ((1 - click) * ring + click * burst)[: len(out) - start]
        at += max(0.03, (1 + jitter * draw.standard_normal()) / rate)
    return out[:count]


def rain(draw: np.random.Generator, seconds: float) -> np.ndarray:
    """Many drops over a hiss; so thick that it is applause or a fire."""
    count = int(seconds * RATE)
    out = np.zeros(count)
    drops = draw.random(count) < 10 ** draw.uniform(1, 3.3) / RATE
    out[drops] = draw.exponential(1, drops.sum()) * draw.choice([-1, 1], drops.sum())
    low = 10 ** draw.uniform(2.3, 3.5)
    out = band(out, low, low * draw.uniform(1.5, 6))
    return out / out.std() + draw.uniform(0, 1) * coloured(draw, count, draw.uniform(-6, 3))


def waves(draw: np.random.Generator, seconds: float) -> np.ndarray:
    """Surf or breathing: slow swells whose colour goes with their level."""
    count = int(seconds * RATE)
    phase = 2 * np.pi * draw.uniform(0.15, 0.8) * np.arange(count) / RATE + draw.uniform(0, 6)
    swell = (0.5 - 0.5 * np.cos(phase)) ** draw.uniform(1, 3)
    dull = band(coloured(draw, count, -4), 100, 1200)
    bright = band(coloured(draw, count, 0), 600, 6000)
    return dull * swell + draw.uniform(0.2, 1) * bright * swell ** draw.uniform(1.5, 3) + 0.02 * bright


def tones(draw: np.random.Generator, seconds: float) -> np.ndarray:
    """Sines: one or several, steady, beating, swept, warbling or in beeps."""
    count = int(seconds * RATE)
    clock = np.arange(count) / RATE
    out = np.zeros(count)
    for _ in range(draw.integers(1, 4)):
        hertz = 10 ** draw.uniform(1.8, 3.7) * np.ones(count)
        kind = draw.integers(4)
        if kind == 1:
            hertz = hertz * 2 ** (draw.uniform(-2, 2) * clock / seconds)
        elif kind == 2:
            hertz = hertz * 2 ** (draw.uniform(0.02, 0.6) * np.sin(2 * np.pi * draw.uniform(0.3, 7) * clock))
        out += draw.uniform(0.2, 1) * np.sin(2 * np.pi * np.cumsum(hertz) / RATE)
    if draw.random() < 0.4:
        period, share = draw.uniform(0.1, 1.5), draw.uniform(0.2, 0.8)
        gate = ((clock / period) % 1 < share).astype(float)
        out *= np.convolve(gate, np.full(480, 1 / 480), "same")
    return out


def hum(draw: np.random.Generator, seconds: float) -> np.ndarray:
    """Mains, motors, buzzers: harmonics of a low, steady or slowly wandering pitch."""
    count = int(seconds * RATE)
    f0 = draw.choice([50.0, 60.0, 100.0, 120.0, 10 ** draw.uniform(1.6, 2.6)])
    f0 = f0 * 2 ** (draw.choice([0, 0.003, 0.05]) * wander(draw, count, 10 ** draw.uniform(-0.5, 0.5)))
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    fall, odd = draw.uniform(0, 2), draw.random() < 0.3
    out = np.zeros(count)
    for n in range(1, 40):
        if n * f0.max() < 9000 and not (odd and n % 2 == 0):
            out += n**-fall * draw.uniform(0.3, 1) * np.sin(n * phase + draw.uniform(0, 6))
    return out / out.std() + draw.choice([0, 0.03, 0.3]) * coloured(draw, count, -3)


def _note(draw: np.random.Generator, f0: float, seconds: float, fall: float, bright: float, pluck: bool) -> np.ndarray:
    clock = np.arange(int(seconds * RATE)) / RATE
    out = np.zeros(len(clock))
    for n in range(1, 16):
        if n * f0 < 10000:
            fade = np.exp(-clock * fall * n**0.7) if pluck else np.minimum(1, clock / 0.05)
            out += n**-bright * draw.uniform(0.5, 1) * fade * np.sin(2 * np.pi * n * f0 * clock + draw.uniform(0, 6))
    ends = np.minimum(1, np.minimum(clock / 0.005, (clock[-1] - clock) / 0.03))
    return out * ends


def music(draw: np.random.Generator, seconds: float) -> np.ndarray:
    """Chords and tunes, held or plucked, with or without a beat."""
    count = int(seconds * RATE)
    out = np.zeros(count + 4 * RATE)
    beat = draw.uniform(0.15, 1.5)
    scale = np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16])
    root, fall, bright, pluck = (
        10 ** draw.uniform(1.9, 2.7),
        draw.uniform(0.5, 6),
        draw.uniform(0.5, 2),
        draw.random() < 0.6,
    )
    voices, drum = draw.integers(1, 5), draw.choice([0, 0, 0.5, 1.5])
    at = 0.0
    while at < seconds:
        start = int(at * RATE)
        for step in draw.choice(scale, voices, replace=False):
            note = _note(draw, root * 2 ** (step / 12), beat * draw.choice([1, 1, 2]), fall, bright, pluck)
            out[start : start + len(note)] += note[: len(out) - start]
        if drum:
            hit = draw.standard_normal(RATE // 4) * np.exp(-np.arange(RATE // 4) / RATE / draw.uniform(0.01, 0.08))
            out[start : start + len(hit)] += drum * hit[: len(out) - start]
        at += beat * draw.choice([1, 1, 1, 0.5])
    return out[:count]


def chirps(draw: np.random.Generator, seconds: float) -> np.ndarray:
    """Birds, alarms, arcade sounds: short glides with silence between."""
    count = int(seconds * RATE)
    out = np.zeros(count + RATE)
    at = draw.uniform(0, 0.4)
    base, span = 10 ** draw.uniform(2.6, 3.7), draw.uniform(0.1, 1.2)
    harmonics = draw.integers(1, 5)
    while at < seconds:
        clock = np.arange(int(draw.uniform(0.04, 0.4) * RATE)) / RATE
        hertz = base * 2 ** (span * draw.uniform(-1, 1) * np.linspace(0, 1, len(clock)) + 0.2 * draw.standard_normal())
        phase = 2 * np.pi * np.cumsum(hertz) / RATE
        call = sum(n**-1.5 * np.sin(n * phase) for n in range(1, harmonics + 1) if n * hertz.max() < 20000)
        start = int(at * RATE)
        out[start : start + len(clock)] += (call * np.hanning(len(clock)))[: len(out) - start]
        at += draw.uniform(0.05, 0.8)
    return out[:count] + 0.001 * draw.standard_normal(count)


MAKERS: dict[str, Maker] = {
    make.__name__: make for make in (steady, narrow, swelling, wind, knocks, rain, waves, tones, hum, music, chirps)
}


def make(kind: str, draw: np.random.Generator, seconds: float) -> np.ndarray:
    """One sound of a kind in `MAKERS`."""
    wave = MAKERS[kind](draw, seconds)
    return 0.5 * wave / max(np.abs(wave).max(), 1e-9)
