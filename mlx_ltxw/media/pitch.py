"""Frames of a sound, and the fundamental frequency and voicing of speech.

Autocorrelation of windowed frames divided by the window's own, candidates joined by dynamic programming: P. Boersma,
"Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled sound", IFA
Proceedings 17 (1993). Two additions keep a whisper's formants, which are narrow bands of noise, from passing for a
voice: the spectrum's magnitude takes the place of its power, so that one strong band counts for less (as in T. Tolonen
and M. Karjalainen, "A computationally efficient multipitch analysis model", 2000), and a short period must repeat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mlx_ltxw.media.ear import RATE, to_mono

HOP = 0.010  # seconds
WINDOW = 0.050  # seconds: three periods of the lowest pitch, as Boersma asks for
SPEECH_LEVEL = 0.05  # of the peak level; frames below are pauses
SILENCE_LEVEL = 10 ** (-100 / 20)  # rms; quieter frames never count as speech: 16-bit noise is no louder
BANDS = 100.0 * 2 ** (np.arange(20) / 3)
"""(20,) Hz: edges of 19 bands of a third of an octave, up to 8063 Hz."""

_CLICK = 0.150  # seconds
_TOP_HZ = 2000.0  # candidates come from below it (half power), where the harmonics of speech are
_REPEATS = 0.0125  # seconds over which a period must repeat; formant noise forgets itself sooner
_CANDIDATES = 8
_NONE = -9.0
# Costs in units of the candidates' height, which is about 0.4 for a clear voice and 0.1 for noise.
_VOICED = 0.20  # height that being voiced takes
_OCTAVE = 0.01  # of a longer period, per octave: a period has a twin at each of its multiples (Boersma's value)
_ONSET = 0.14  # of a change between voiced and unvoiced (Boersma's value)
_JUMP = 0.35  # of a change of pitch, per octave (Boersma's value)
_POINTS = 1200  # of the transform: at least the window plus the longest lag, so that nothing wraps around
_BREATH = (1500.0, 3500.0)  # Hz, where breath drowns the harmonics first
_BLOCK = 500  # frames a time: fits the processor's caches, and bounds memory
_THREADS = 2
_FEW = 64  # blocks joined at a time


class PitchTrack(NamedTuple):
    """One entry a frame: its middle (s), f0 (Hz, NaN where unvoiced), and whether it is voiced speech."""

    times: np.ndarray
    f0: np.ndarray
    voiced: np.ndarray


@dataclass(frozen=True)
class Frames:
    """What one pass over the frames yields, all fp32; T frames, K candidates."""

    level: np.ndarray  # (T,) rms
    periodicity: np.ndarray  # (T,) greatest normalised autocorrelation of the whole band, in (0, 1)
    pitch: np.ndarray  # (T, K) candidates, log2 Hz
    score: np.ndarray  # (T, K) how good each is; _NONE where there is none
    bands: np.ndarray  # (T, 19) power in `BANDS`; their sum is at most the frame's mean square
    centroid: np.ndarray  # (T,) power-weighted mean frequency, Hz
    first: np.ndarray  # (T,) dB, the first over the second harmonic of the best candidate (H1-H2)
    breath: np.ndarray  # (T,) autocorrelation of 1.5 to 3.5 kHz at the best candidate's period, -1 to 1

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
    return track(analyse([to_mono(samples, rate)], fmin, fmax))


def analyse(mono: Iterable[np.ndarray], fmin: float = 60.0, fmax: float = 500.0) -> Frames:
    """Frames of pieces (N,) at 16 kHz that follow one another; frame t is centred on t * 10 ms."""
    work = partial(_analyse_block, fmin=fmin, fmax=fmax)
    parts: list[tuple[np.ndarray, ...]] = []
    few: list[tuple[np.ndarray, ...]] = [work(np.zeros((0, round(WINDOW * RATE)), np.float32))]
    for part in _in_threads(work, _windows(mono)):
        few.append(part)
        if len(few) == _FEW:  # large pieces go back to the system when they are let go of, small ones do not
            parts.append(_joined(few))
            few = []
    parts += [_joined(few)] if few else []
    columns: list[np.ndarray] = []
    for i in range(len(fields(Frames))):
        columns.append(np.concatenate([part[i] for part in parts]))
        parts = [(*part[:i], part[i][:0].copy(), *part[i + 1 :]) for part in parts]  # let go of what is copied
    return Frames(*columns)


def _joined(parts: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _in_threads(work: partial[tuple], items: Iterable[np.ndarray]) -> Iterator[tuple]:
    """`work` of each item in order, a few at a time: NumPy's transforms run beside the decoder."""
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: deque[Future[tuple]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _windows(mono: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Pieces (N,) -> (T, size) windows around each hop, T at most `_BLOCK`."""
    size, hop = round(WINDOW * RATE), round(HOP * RATE)
    rest, total, made = np.zeros(size // 2, np.float32), 0, 0
    for piece in mono:
        total += len(piece)
        rest = np.concatenate([rest, piece])
        while len(rest) >= (_BLOCK - 1) * hop + size:
            yield np.lib.stride_tricks.sliding_window_view(rest, size)[: _BLOCK * hop : hop]
            rest, made = rest[_BLOCK * hop :], made + _BLOCK
    left = -(-total // hop) - made
    rest = np.pad(rest, (0, size))
    for at in range(0, left, _BLOCK):
        count = min(_BLOCK, left - at)
        yield np.lib.stride_tricks.sliding_window_view(rest[at * hop :], size)[: count * hop : hop]


def _analyse_block(windows: np.ndarray, fmin: float, fmax: float) -> tuple[np.ndarray, ...]:
    """(T, size) -> the columns of `Frames`."""
    taper = np.hanning(windows.shape[1] + 2)[1:-1].astype(np.float32)
    shape = np.fft.irfft(_power(taper)).astype(np.float32)
    power = _power(windows * taper)
    hertz = np.fft.rfftfreq(_POINTS, 1 / RATE).astype(np.float32)
    level = np.sqrt(2 * power.sum(axis=1) / _POINTS / shape[0])
    first, last = int(RATE / fmax), int(np.ceil(RATE / fmin)) + 1

    curve = _autocorrelation(np.sqrt(power) / (1 + (hertz / _TOP_HZ) ** 4), shape, last + 1, 1)
    lag, height = _maxima(curve[:, first - 1 :], _CANDIDATES)
    lag = lag + np.float32(first - 1)
    pitch = np.log2(RATE / lag)
    repeats = np.minimum(height, _at_multiples(curve, lag)) > _VOICED
    score = np.where(repeats, height + _OCTAVE * (pitch - np.log2(fmin)), _NONE)

    full = _autocorrelation(power, shape, last, 2)[:, 2 * first - 1 :]  # half-sample lags
    periodicity = _maxima(full, 1)[1][:, 0].clip(1e-4, 0.9999)

    edges = np.searchsorted(hertz, BANDS).clip(0, len(hertz) - 1)
    bands = np.stack([power[:, a:b].sum(axis=1) for a, b in pairwise(edges)], axis=1) * (2 / _POINTS / shape[0])
    centroid = (power @ hertz) / np.maximum(power.sum(axis=1), 1e-20)
    best = np.take_along_axis(lag, score.argmax(axis=1)[:, None], 1)
    harmonics = [_near(power, times * _POINTS / best) for times in (1, 2)]
    ratio = 10 * np.log10((harmonics[0] + 1e-20) / (harmonics[1] + 1e-20))
    columns = (level, periodicity, pitch, score, bands, centroid, ratio, _repeated(power, best, shape))
    return tuple(column.astype(np.float32) for column in columns)


def _power(windows: np.ndarray) -> np.ndarray:
    """(..., size) -> (..., 601)."""
    spectrum = np.fft.rfft(windows, _POINTS)
    return spectrum.real**2 + spectrum.imag**2  # np.abs takes longer than the transform


def _near(power: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """The most power within a bin of each peak, (T, bins) and (T, 1) -> (T,)."""
    nearest = np.round(peak).astype(int).clip(1, power.shape[1] - 2)
    return np.take_along_axis(power, nearest + np.arange(-1, 2), 1).max(axis=1)


def _repeated(power: np.ndarray, lag: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Autocorrelation of the breath's band at each frame's own lag (T, 1), from its power alone -> (T,)."""
    low, high = (round(edge * _POINTS / RATE) for edge in _BREATH)
    angle = (2 * np.pi / _POINTS) * np.arange(low, high, dtype=np.float32) * lag
    band = power[:, low:high]
    window = np.interp(lag[:, 0], np.arange(len(shape)), shape) / shape[0]
    return (band * np.cos(angle)).sum(axis=1) / np.maximum(band.sum(axis=1), 1e-20) / window


def _at_multiples(curve: np.ndarray, lag: np.ndarray) -> np.ndarray:
    """The least height at 2, 3, ... times each lag, as far as `_REPEATS`; (T, K) -> (T, K)."""
    least = np.ones_like(lag)
    wide = np.maximum(np.maximum(curve[:, :-2], curve[:, 1:-1]), curve[:, 2:])  # wide[n] is about lag n + 1
    for times in range(2, int(_REPEATS * RATE / lag.min(initial=RATE)) + 1):
        there = times * lag
        nearest = np.round(there).astype(int).clip(1, curve.shape[1] - 2)
        height = np.take_along_axis(wide, nearest - 1, 1)
        least = np.where(there <= _REPEATS * RATE, np.minimum(least, height), least)
    return least


def _autocorrelation(spectrum: np.ndarray, shape: np.ndarray, last: int, zoom: int) -> np.ndarray:
    """Spectra (T, bins) -> autocorrelation at lags 0 to `last` in steps of 1/zoom, 1 at lag 0."""
    points = 2 * (spectrum.shape[1] - 1)
    span = zoom * last + 1
    curve = np.fft.irfft(spectrum, points * zoom)[:, :span]
    window = np.interp(np.arange(span) / zoom, np.arange(len(shape)), shape).astype(np.float32)
    return curve * (shape[0] / window / np.maximum(curve[:, :1], 1e-20))


def _maxima(curve: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The `most` highest local maxima of each row (T, n), refined by a parabola -> peak and height, (T, most);
    height -1 if there are fewer."""
    middle = curve[:, 1:-1]
    height = np.where((middle > curve[:, :-2]) & (middle >= curve[:, 2:]), middle, -1)
    best = height.argmax(axis=1)[:, None] if most == 1 else np.argpartition(-height, most, axis=1)[:, :most]
    top = np.take_along_axis(height, best, 1)
    left, right = np.take_along_axis(curve, best, 1), np.take_along_axis(curve, best + 2, 1)
    found = top > -1
    bend = np.where(found, left - 2 * top + right, -1)
    shift = np.where(found, 0.5 * (left - right) / np.where(bend < 0, bend, -1), 0)
    return best + 1 + shift, np.where(found, top - 0.25 * (left - right) * shift, -1)


def track(frames: Frames) -> PitchTrack:
    """Chooses a candidate, or none, for each frame: the path of greatest score less costs (Viterbi)."""
    count, pitch = len(frames.level), frames.pitch
    states = frames.score.shape[1] + 1  # state 0: unvoiced
    cost = np.full((states, states), _ONSET)
    cost[0, 0] = 0.0
    origin = np.zeros((count, states), np.int8)
    score = np.full(states, _VOICED)
    total = np.zeros(states)
    rows = np.arange(states)
    for t in range(count):
        if t:
            cost[1:, 1:] = _JUMP * np.abs(pitch[t - 1][:, None] - pitch[t])
        reach = total[:, None] - cost
        came = reach.argmax(axis=0)
        score[1:] = frames.score[t]
        total = reach[came, rows] + score
        origin[t] = came
    path = np.zeros(count, int)
    state = int(total.argmax())
    for t in range(count - 1, -1, -1):
        path[t] = state
        state = origin[t, state]
    voiced = (path > 0) & frames.speech
    hertz = 2 ** np.take_along_axis(pitch, np.maximum(path - 1, 0)[:, None], 1)[:, 0]
    return PitchTrack(frames.times, np.where(voiced, hertz, np.nan), voiced)
