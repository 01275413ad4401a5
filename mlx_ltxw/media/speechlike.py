"""Whether a stretch of sound is speech: what speech does that noise, knocks, tones and music do not.

Speech changes its colour two to eight times a second, because the mouth does; it does so without a rhythm, rises and
falls in level with it, and its pitch, where it has one, glides. Each window of two seconds gets figures of these kinds,
none of which depends on the level, on the sampling rate (all lie below 3.2 kHz) or on whether the voice is used.
"""

from __future__ import annotations

import numpy as np

from mlx_ltxw.media.pitch import HOP, SILENCE_LEVEL, SPEECH_LEVEL, Frames, PitchTrack, loudest

WINDOW = 2.0  # seconds
STEP = 1.0
NAMES = (
    "active", "level spread", "level 2-8 Hz", "level fast", "rise skew", "run length", "runs",
    "c1", "c2", "c3", "c4-c6", "c 2-8 Hz", "c slow", "flux", "flux long", "level with c1", "band spread", "centre",
    "band entropy", "distinct", "periodicity", "periodicity top", "voiced", "glide", "f0 spread", "flat pitch",
    "breath", "first", "steady bands", "unvoiced among",
)  # fmt: skip

_BANDS = 15  # of `pitch.BANDS`: 100 Hz to 3.2 kHz
_FLOOR_DB = 35.0  # below the loudest band of the window nothing counts


def windows(frames: Frames) -> list[slice]:
    """A window around each second of the clip; the last ones end with it."""
    count, size, step = len(frames.level), round(WINDOW / HOP), round(STEP / HOP)
    seconds = max(1, -(-count // step))
    starts = [min(max(0, i * step + step // 2 - size // 2), max(0, count - size)) for i in range(seconds)]
    return [slice(start, min(count, start + size)) for start in starts]


def figures(frames: Frames, pitch: PitchTrack, window: slice) -> np.ndarray | None:
    """(30,) as in `NAMES`; None where the window is silent or hardly anything stands out of it."""
    level = frames.level[window]
    active = level > max(SPEECH_LEVEL * loudest(level), SILENCE_LEVEL)
    if active.sum() < 8:
        return None
    at = np.flatnonzero(active)  # the silence before and after a word says nothing about it
    window = slice(window.start + at[0], window.start + at[-1] + 1)
    level, active = frames.level[window], active[at[0] : at[-1] + 1]
    raw = 10 * np.log10(frames.bands[window, :_BANDS].astype(np.float64) + 1e-14)
    bands = _smooth(np.maximum(raw, raw[active].max() - _FLOOR_DB - 10))
    return np.array([*_of_level(level, active), *_of_colour(bands, active), *_of_pitch(frames, pitch, window, active)])


def _smooth(curves: np.ndarray, width: int = 5) -> np.ndarray:
    """Each column of (T, C) averaged over 50 ms."""
    taper = np.hanning(width + 2)[1:-1]
    taper /= taper.sum()
    padded = np.pad(curves, ((width // 2, width // 2), (0, 0)), "edge")
    return np.stack([np.convolve(column, taper, "valid") for column in padded.T], axis=1)


def _modulation(curve: np.ndarray) -> tuple[float, float, float]:
    """Deviation of (T,) in all, and the shares of its power below 2 Hz and from 2 to 8 Hz."""
    wave = (curve - curve.mean()) * np.hanning(len(curve) + 2)[1:-1]
    power = np.abs(np.fft.rfft(wave, 512)) ** 2
    hertz = np.fft.rfftfreq(512, HOP)
    total = power.sum() + 1e-9
    return (
        float(curve.std()),
        float(power[hertz < 2].sum() / total),
        float(power[(hertz >= 2) & (hertz < 8)].sum() / total),
    )


def _of_level(level: np.ndarray, active: np.ndarray) -> list[float]:
    decibels = 20 * np.log10(np.maximum(level, level.max() * 10 ** (-_FLOOR_DB / 20)) + 1e-9)
    spread, slow, syllabic = _modulation(decibels)
    steps = np.diff(decibels)
    moving = np.abs(steps) > 0.3
    skew = float((steps[moving] ** 3).mean() / ((steps[moving] ** 2).mean() ** 1.5 + 1e-9)) if moving.any() else 0.0
    change = np.flatnonzero(np.diff(active.astype(int), prepend=0, append=0))
    runs = (change[1::2] - change[::2]) * HOP
    fast = 1 - slow - syllabic
    return [active.mean(), spread, syllabic, fast, skew, float(np.log(runs.mean())), len(runs) / (len(level) * HOP)]


def _of_colour(bands: np.ndarray, active: np.ndarray) -> list[float]:
    """The shape of the spectrum, without its level."""
    count = bands.shape[1]
    shape = bands - bands.mean(axis=1, keepdims=True)
    basis = np.cos(np.pi * np.arange(1, 7)[:, None] * (np.arange(count) + 0.5) / count) * np.sqrt(2 / count)
    cepstra = shape @ basis.T  # (T, 6)
    spoken = cepstra[active]
    deviation = spoken.std(axis=0)
    slow = syllabic = 0.0
    for k in range(3):
        filled = np.interp(np.arange(len(active)), np.flatnonzero(active), spoken[:, k])
        _, low, mid = _modulation(filled)
        slow, syllabic = slow + low / 3, syllabic + mid / 3
    flux = [np.abs(shape[lag:] - shape[:-lag])[active[lag:] & active[:-lag]] for lag in (5, 15)]
    change = [float(step.mean()) if step.size else 0.0 for step in flux]
    level = bands.mean(axis=1)[active]
    together = float(np.corrcoef(level, spoken[:, 0])[0, 1]) if level.std() > 0.1 and deviation[0] > 0.1 else 0.0
    mean = shape[active].mean(axis=0)
    weight = 10 ** (bands[active].mean(axis=0) / 10)
    weight = weight / weight.sum()
    entropy = float(-(weight * np.log(weight + 1e-9)).sum())
    centred = spoken - spoken.mean(axis=0)
    values = np.linalg.svd(centred / np.sqrt(len(centred)), compute_uv=False) ** 2
    distinct = float(values.sum() ** 2 / ((values**2).sum() + 1e-9))  # in how many ways it changes, 1 to 6
    return [
        *np.log(deviation[:3] + 0.1), float(np.log(np.sqrt((deviation[3:] ** 2).mean()) + 0.1)), syllabic, slow,
        np.log(change[0] + 0.1), np.log(change[1] + 0.1), together, float(mean.std()),
        float((weight * np.arange(count)).sum()), entropy, distinct,
    ]  # fmt: skip


def _of_pitch(frames: Frames, pitch: PitchTrack, window: slice, active: np.ndarray) -> list[float]:
    periodicity = frames.periodicity[window][active]
    voiced = pitch.voiced[window] & active
    tune = 12 * np.log2(np.where(np.isnan(pitch.f0[window]), 100.0, pitch.f0[window]))
    both = voiced[2:] & voiced[1:-1] & voiced[:-2]
    slope = np.abs(tune[2:] - tune[:-2])[both] / (2 * HOP)
    slope = slope[slope < 100]
    many = len(slope) >= 5
    bands = 10 * np.log10(frames.bands[window, :_BANDS][active].astype(np.float64) + 1e-14)
    still = float(np.median(np.abs(np.diff(bands, axis=0)))) if len(bands) > 1 else 0.0
    return [
        float(np.median(periodicity)), float(np.quantile(periodicity, 0.9)), float(voiced.sum() / active.sum()),
        float(np.log(np.median(slope) + 0.5)) if many else 1.5,
        float(np.log(tune[voiced].std() + 0.1)) if many else 0.5,
        float((slope < 2).mean()) if many else 0.3,
        float(np.median(frames.breath[window][voiced])) if many else 0.3,
        float(np.median(frames.first[window][voiced])) if many else 0.0,
        float(np.log(still + 0.05)),
        float((active & ~voiced).sum() / len(active)),
    ]  # fmt: skip
