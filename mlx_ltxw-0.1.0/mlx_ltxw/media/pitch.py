"""Fundamental frequency and voicing of speech.

Autocorrelation of windowed frames divided by the window's own, candidates joined by dynamic programming: P. Boersma,
"Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled sound", IFA
Proceedings 17 (1993). Two additions keep a whisper's formants, which are narrow bands of noise, from passing for a
voice: the spectrum's magnitude takes the place of its power, so that one strong band counts for less (as in T. Tolonen
and M. Karjalainen, "A computationally efficient multipitch analysis model", 2000), and a short period must repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mlx_ltxw.media.audio import resample

RATE = 16000
HOP = 0.010  # seconds
WINDOW = 0.050  # seconds: three periods of the lowest pitch, as Boersma asks for
SPEECH_LEVEL = 0.05  # of the peak level; frames below are pauses
SILENCE_LEVEL = 10 ** (-80 / 20)  # rms; quieter frames never count as speech

_CLICK = 0.150  # seconds
_RUMBLE = (40.0, 60.0)  # Hz; nothing passes below the first, all above the second
_TOP_HZ = 2000.0  # candidates come from below it (half power), where the harmonics of speech are
_REPEATS = 0.0125  # seconds over which a period must repeat; formant noise forgets itself sooner
_CANDIDATES = 8
_NONE = -9.0
# Costs in units of the candidates' height, which is about 0.4 for a clear voice and 0.1 for noise.
_VOICED = 0.20  # height that being voiced takes
_OCTAVE = 0.01  # of a longer period, per octave: a period has a twin at each of its multiples (Boersma's value)
_ONSET = 0.14  # of a change between voiced and unvoiced (Boersma's value)
_JUMP = 0.35  # of a change of pitch, per octave (Boersma's value)
_BLOCK = 4096  # frames a time, to bound the memory that a long file takes


class PitchTrack(NamedTuple):
    """One entry a frame: its middle (s), f0 (Hz, NaN where unvoiced), and whether it is voiced speech."""

    times: np.ndarray
    f0: np.ndarray
    voiced: np.ndarray


@dataclass(frozen=True)
class Frames:
    """What one pass over the frames yields; T frames, K candidates."""

    level: np.ndarray  # (T,) rms
    periodicity: np.ndarray  # (T,) greatest normalised autocorrelation of the whole band, in (0, 1)
    pitch: np.ndarray  # (T, K) candidates, log2 Hz
    score: np.ndarray  # (T, K) how good each is; _NONE where there is none

    @property
    def times(self) -> np.ndarray:
        """(T,) s."""
        return np.arange(len(self.level)) * HOP

    @property
    def speech(self) -> np.ndarray:
        """(T,) bool: frames over 5 % of the peak level."""
        return self.level > max(SPEECH_LEVEL * loudest(self.level), SILENCE_LEVEL)


def loudest(level: np.ndarray) -> float:
    """The level of (T,) frames that 150 ms exceed, so that no click passes for the loudest speech; 0 without frames."""
    rank = min(round(_CLICK / HOP), len(level) // 4)
    return float(np.sort(level)[-1 - rank]) if len(level) else 0.0


def pitch_track(samples: np.ndarray, rate: int, *, fmin: float = 60.0, fmax: float = 500.0) -> PitchTrack:
    """Tracks the pitch of one voice, a frame every 10 ms.

    Args:
        samples: (N,) or (N, C), any level.
        fmin, fmax: The pitch's range, Hz; at least an octave within 60 to 1000 Hz.
    """
    if not 60 <= fmin <= fmax / 2 <= 500:
        raise ValueError(f"a pitch range is at least an octave within 60 to 1000 Hz, not {fmin} to {fmax}")
    return track(analyse(to_mono(samples, rate), fmin, fmax))


def to_mono(samples: np.ndarray, rate: int) -> np.ndarray:
    """(N,) or (N, C) at `rate` -> (M,) at 16 kHz, without rumble."""
    wave = np.asarray(samples, np.float32)
    if wave.ndim == 2:
        wave = wave.mean(axis=1)
    wave = resample(wave[:, None], rate, RATE)[:, 0]
    if not len(wave):
        return wave
    hertz = np.fft.rfftfreq(len(wave), 1 / RATE)
    return np.fft.irfft(np.fft.rfft(wave) * np.interp(hertz, _RUMBLE, (0, 1)), len(wave)).astype(np.float32)


def analyse(mono: np.ndarray, fmin: float = 60.0, fmax: float = 500.0) -> Frames:
    """Frames of (N,) at 16 kHz; frame t is centred on t * 10 ms."""
    size, hop = round(WINDOW * RATE), round(HOP * RATE)
    count = -(-len(mono) // hop)
    padded = np.pad(mono, (size // 2, size // 2 + hop))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:count]  # (T, size)
    parts = [_analyse_block(windows[at : at + _BLOCK], fmin, fmax) for at in range(0, max(1, count), _BLOCK)]
    return Frames(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _analyse_block(windows: np.ndarray, fmin: float, fmax: float) -> tuple[np.ndarray, ...]:
    """(T, size) -> the columns of `Frames`."""
    size = windows.shape[1]
    points = 2048  # at least size plus the longest lag, so that nothing wraps around
    taper = np.hanning(size + 2)[1:-1].astype(np.float32)
    shape = np.fft.irfft(_power(taper, points))
    power = _power(windows * taper, points)
    hertz = np.fft.rfftfreq(points, 1 / RATE).astype(np.float32)
    level = np.sqrt(2 * power.sum(axis=1) / points / shape[0])
    first, last = int(RATE / fmax), int(np.ceil(RATE / fmin)) + 1

    curve = _autocorrelation(np.sqrt(power) / (1 + (hertz / _TOP_HZ) ** 4), shape, last + 1, 1)
    lag, height = _maxima(curve[:, first - 1 :])
    lag = lag + first - 1
    best = np.argpartition(-height, _CANDIDATES, axis=1)[:, :_CANDIDATES]
    lag, height = np.take_along_axis(lag, best, 1), np.take_along_axis(height, best, 1)
    pitch = np.log2(RATE / lag)
    repeats = np.minimum(height, _at_multiples(curve, lag)) > _VOICED
    score = np.where(repeats, height + _OCTAVE * (pitch - np.log2(fmin)), _NONE)

    full = _autocorrelation(power, shape, last, 2)[:, 2 * first - 1 :]  # half-sample lags
    periodicity = _maxima(full)[1].max(axis=1).clip(1e-4, 0.9999)
    return level, periodicity, pitch, score


def _power(windows: np.ndarray, points: int) -> np.ndarray:
    """(..., size) -> (..., points / 2 + 1)."""
    spectrum = np.fft.rfft(windows, points)
    return spectrum.real**2 + spectrum.imag**2  # np.abs takes longer than the transform


def _at_multiples(curve: np.ndarray, lag: np.ndarray) -> np.ndarray:
    """The least height at 2, 3, ... times each lag, as far as `_REPEATS`; (T, K) -> (T, K)."""
    least = np.ones_like(lag)
    rows = np.arange(len(lag))[:, None]
    for times in range(2, int(_REPEATS * RATE / lag.min(initial=RATE)) + 1):
        there = times * lag
        nearest = np.round(there).astype(int).clip(1, curve.shape[1] - 2)
        height = np.maximum.reduce([curve[rows, nearest + step] for step in (-1, 0, 1)])
        least = np.where(there <= _REPEATS * RATE, np.minimum(least, height), least)
    return least


def _autocorrelation(spectrum: np.ndarray, shape: np.ndarray, last: int, zoom: int) -> np.ndarray:
    """Spectra (T, bins) -> autocorrelation at lags 0 to `last` in steps of 1/zoom, 1 at lag 0."""
    points = 2 * (spectrum.shape[1] - 1)
    span = zoom * last + 1
    curve = np.fft.irfft(spectrum, points * zoom)[:, :span]
    window = np.interp(np.arange(span) / zoom, np.arange(len(shape)), shape)
    return curve / np.maximum(curve[:, :1], 1e-20) * (shape[0] / window)


def _maxima(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Local maxima of each row (T, n), refined by a parabola -> place and height, (T, n - 2); height -1 if none."""
    left, middle, right = curve[:, :-2], curve[:, 1:-1], curve[:, 2:]
    top = (middle > left) & (middle >= right)
    bend = np.where(top, left - 2 * middle + right, -1.0)
    shift = np.where(top, 0.5 * (left - right) / bend, 0.0)
    height = np.where(top, middle - 0.25 * (left - right) * shift, -1.0)
    return np.arange(1, curve.shape[1] - 1) + shift, height


def track(frames: Frames) -> PitchTrack:
    """Chooses a candidate, or none, for each frame: the path of greatest score less costs (Viterbi)."""
    count, pitch = len(frames.level), frames.pitch
    score = np.concatenate([np.full((count, 1), _VOICED), frames.score], axis=1)  # state 0: unvoiced
    states = score.shape[1]
    cost = np.full((states, states), _ONSET)
    cost[0, 0] = 0.0
    origin = np.zeros((count, states), int)
    total = np.zeros(states)
    for t in range(count):
        if t:
            cost[1:, 1:] = _JUMP * np.abs(pitch[t - 1][:, None] - pitch[t])
        reach = total[:, None] - cost
        origin[t] = reach.argmax(axis=0)
        total = reach[origin[t], np.arange(states)] + score[t]
    path = np.zeros(count, int)
    state = int(total.argmax())
    for t in range(count - 1, -1, -1):
        path[t] = state
        state = origin[t, state]
    voiced = (path > 0) & frames.speech
    hertz = 2 ** np.take_along_axis(pitch, np.maximum(path - 1, 0)[:, None], 1)[:, 0]
    return PitchTrack(frames.times, np.where(voiced, hertz, np.nan), voiced)
