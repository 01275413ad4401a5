"""Loudness and true peak after EBU R128, by FFmpeg's `ebur128` filter and its resampler."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from mlx_ltxw.media.audio import LAYOUTS, resample, to_frames
from mlx_ltxw.media.sound import slices

SILENCE_LUFS = -70.0
"""The absolute gate of ITU-R BS.1770-4: what lies below counts as silence, and FFmpeg reports nothing less."""
SILENCE_DBTP = -120.0
_BLOCK = 0.4  # seconds; BS.1770's gating block
_OVERSAMPLED = 192000  # Hz, as in BS.1770-4 Annex 2
_OVERSHOOT = 1.6  # times the greatest sample near it that a peak between samples may have; a sine's has up to 1.41
_PEAK_HOP = 0.01  # seconds
_AROUND = 64  # samples


class Loudness(NamedTuple):
    """Integrated loudness (LUFS, at least -70) and true peak (dBTP, at least -120) of a whole clip."""

    lufs: float
    true_peak: float


def loudness(wave: np.ndarray, rate: int) -> Loudness:
    """Measures (N, 1) or (N, 2) fp32 in [-1, 1]."""
    meter = Meter(rate, wave.shape[1])
    for block in slices(wave, rate):
        meter.push(block)
    return meter.result()


class Meter:
    """Loudness of a sound that comes in blocks (N, C).

    BS.1770 adds the channels' energies, so one channel alone reads 3 dB less than the same sound on both. A clip
    shorter than one gating block (0.4 s) is measured as if it went on by repeating itself.

    Attributes:
        count: Samples heard.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self._rate, self._channels = rate, channels
        self._graph = _graph(rate, channels)
        self.count = self._sent = 0
        self._start = np.zeros((0, channels), np.float32)  # until it is a gating block long
        self._lufs = SILENCE_LUFS
        self._peak = 0.0
        self._tail = np.zeros((0, channels), np.float32)

    def push(self, block: np.ndarray) -> None:
        """Takes the next samples."""
        self._hear(block)
        self.count += len(block)
        if len(self._start) < round(_BLOCK * self._rate):
            self._start = np.concatenate([self._start, block[: round(_BLOCK * self._rate)]])
        self._find_peak(block)

    def result(self) -> Loudness:
        """Of all that was pushed; nothing is to be pushed after it."""
        needed = round(_BLOCK * self._rate)
        if 0 < len(self._start) < needed:
            self._hear(np.tile(self._start, (-(-needed // len(self._start)), 1)))
        self._drain(None)
        peak = 20 * np.log10(max(self._peak, 1e-9))
        silent = peak < SILENCE_DBTP
        lufs = SILENCE_LUFS if silent else max(self._lufs, SILENCE_LUFS)
        return Loudness(lufs, max(float(peak), SILENCE_DBTP))

    def _hear(self, block: np.ndarray) -> None:
        for frame in to_frames(block, self._rate, self._sent):
            self._drain(frame)
        self._sent += len(block)

    def _drain(self, frame: Any) -> None:
        self._graph.push(frame)
        while True:
            try:
                self._lufs = float(self._graph.pull().metadata.get("lavfi.r128.I", self._lufs))
            except (BlockingIOError, EOFError):  # it wants the next frame, or there is none
                return

    def _find_peak(self, block: np.ndarray) -> None:
        """Oversamples only where a peak between samples may be the highest so far."""
        joined = np.concatenate([self._tail, block])
        hop = max(1, round(_PEAK_HOP * self._rate))
        starts = np.arange(len(self._tail), len(joined), hop)
        self._tail = joined[-_AROUND:]
        if not len(starts):
            return
        level = np.maximum.reduceat(np.abs(joined), starts, axis=0).max(axis=1)
        self._peak = max(self._peak, float(level.max()))
        top = int(level.argmax())
        self._oversample(joined, starts[top : top + 1], hop)
        self._oversample(joined, starts[level * _OVERSHOOT > self._peak], hop)

    def _oversample(self, wave: np.ndarray, starts: np.ndarray, hop: int) -> None:
        """Looks between the `hop` samples from each start on, all at once, each with a little around it, faded."""
        if not len(starts) or self._rate >= _OVERSAMPLED:
            return
        places = starts[:, None] + np.arange(-_AROUND, hop + _AROUND)
        inside = (places >= 0) & (places < len(wave))
        fade = np.interp(np.arange(hop + 2 * _AROUND), (0, _AROUND // 2), (0, 1))
        fades = np.minimum(fade, fade[::-1])
        pieces = wave[places.clip(0, len(wave) - 1)] * (fades * inside)[..., None]
        finer = resample(pieces.reshape(-1, wave.shape[1]), self._rate, _OVERSAMPLED)
        self._peak = max(self._peak, float(finer.max()), -float(finer.min()))


def _graph(rate: int, channels: int) -> Any:
    import av

    graph = av.filter.Graph()
    layout = LAYOUTS[channels]
    source = graph.add_abuffer(sample_rate=rate, format="fltp", layout=layout, time_base=Fraction(1, rate))
    meter = graph.add("ebur128", "peak=none:metadata=1:framelog=quiet")
    sink = graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    return graph
