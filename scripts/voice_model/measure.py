"""What the gates measure on sound: pitch and voicing (YIN), loudness, and which sentence was said. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.fft import dct, irfft, rfft

RATE, HOP = 16000, 160
FMIN, FMAX, WINDOW = 60.0, 450.0, 400  # 25 ms of integration
THRESHOLD, ACTIVE = 0.45, 0.08  # unvoiced above this aperiodicity; silent below this share of the peak rms


def pitch(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """YIN (de Cheveigne and Kawahara 2002). wave (N,) at 16 kHz -> f0 in Hz, aperiodicity, rms, each (N // 160,)."""
    longest, shortest = int(RATE / FMIN), int(RATE / FMAX)
    size = WINDOW + longest
    padded = np.pad(wave.astype(np.float64), (size // 2, size))
    starts = np.arange(0, len(wave) - HOP + 1, HOP)
    frames = padded[starts[:, None] + np.arange(size)[None]]
    power = np.cumsum(np.pad(frames**2, ((0, 0), (1, 0))), axis=1)
    lags = np.arange(longest)
    spectrum = rfft(frames, 2 * size)
    cross = irfft(np.conj(rfft(frames[:, :WINDOW], 2 * size)) * spectrum)[:, :longest]
    energy = power[:, lags + WINDOW] - power[:, lags]
    difference = np.maximum(energy[:, :1] + energy - 2 * cross, 0)
    mean = np.cumsum(difference[:, 1:], axis=1) / lags[1:]
    normal = np.concatenate([np.ones((len(frames), 1)), difference[:, 1:] / np.maximum(mean, 1e-12)], axis=1)
    f0, aperiodicity = np.zeros(len(frames)), np.ones(len(frames))
    for row, curve in enumerate(normal):
        lag = _first_dip(curve, shortest)
        a, b, c = curve[lag - 1], curve[lag], curve[min(lag + 1, longest - 1)]
        bend = a - 2 * b + c
        f0[row] = RATE / (lag + (0.5 * (a - c) / bend if bend > 1e-9 else 0.0))
        aperiodicity[row] = b
    middle = frames[:, size // 2 - WINDOW // 2 : size // 2 + WINDOW // 2]
    return f0, aperiodicity, np.sqrt((middle**2).mean(1))


def _first_dip(curve: np.ndarray, shortest: int) -> int:
    """The first local minimum about as deep as the deepest (a loud harmonic's own dip is not), else the lowest."""
    inner = curve[shortest:-1]
    dips = (inner < inner.min() + 0.1) & (inner <= curve[shortest - 1 : -2]) & (inner <= curve[shortest + 1 :])
    found = np.flatnonzero(dips)
    return shortest + int(found[0] if len(found) else np.argmin(inner))


@dataclass(frozen=True)
class Voicing:
    """Per frame of 10 ms: f0 in Hz, active (over 8 % of the peak rms), voiced (active and periodic), rms."""

    f0: np.ndarray
    active: np.ndarray
    voiced: np.ndarray
    rms: np.ndarray

    @classmethod
    def of(cls, wave: np.ndarray) -> Voicing:
        f0, aperiodicity, rms = pitch(wave)
        active = rms > ACTIVE * max(rms.max(), 1e-6)
        return cls(f0, active, active & (aperiodicity < THRESHOLD), rms)

    @property
    def fraction(self) -> float:
        return float(self.voiced.sum() / max(self.active.sum(), 1))

    @property
    def level(self) -> float:
        """RMS in dBFS over the active frames; only differences between clips are used."""
        return float(20 * np.log10(np.sqrt((self.rms[self.active] ** 2).mean()) + 1e-9))

    def pitch_match(self, truth: Voicing, tolerance: float = 0.03) -> float:
        """Of the frames voiced in both, the share whose pitch is within 3 % of the truth's."""
        count = min(len(self.f0), len(truth.f0))
        both = self.voiced[:count] & truth.voiced[:count]
        ratio = self.f0[:count][both] / truth.f0[:count][both]
        return float((np.abs(ratio - 1) < tolerance).mean()) if both.any() else 0.0


def cepstra(log_mel: np.ndarray) -> np.ndarray:
    """Level-free description (T // 2, 12) of a log-mel (T, 64): cepstra 1..12 of the frames, floor at -60 dB."""
    floored = np.maximum(log_mel, log_mel.max() - 7.0)
    pairs = floored[: len(floored) // 2 * 2].reshape(-1, 2, floored.shape[1]).mean(1)
    return dct(pairs, axis=1, norm="ortho")[:, 1:13]


def dtw(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance along the best alignment of (T, D) and (S, D), steps (1,1), (1,0), (0,1)."""
    distance = np.sqrt(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0))
    total = np.full((len(a) + 1, len(b) + 1), np.inf)
    total[0, 0] = 0.0
    for diagonal in range(len(a) + len(b) - 1):  # cells of one diagonal depend on the two before it only
        i = np.arange(max(0, diagonal - len(b) + 1), min(len(a), diagonal + 1))
        j = diagonal - i
        best = np.minimum(np.minimum(total[i, j + 1], total[i + 1, j]), total[i, j])
        total[i + 1, j + 1] = distance[i, j] + best
    return float(total[-1, -1] / (len(a) + len(b)))


def nearest(probe: np.ndarray, candidates: Sequence[np.ndarray]) -> int:
    """Index of the candidate nearest to `probe` under DTW; all are `cepstra`."""
    return int(np.argmin([dtw(probe, other) for other in candidates]))


def identify(log_mel: np.ndarray, candidates: Sequence[np.ndarray]) -> int:
    """Index of the candidate log-mel nearest under DTW."""
    return nearest(cepstra(log_mel), [cepstra(other) for other in candidates])
