"""Loudness and true peak after EBU R128, by FFmpeg's `ebur128` filter."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from mlx_ltxw.media.audio import LAYOUTS, to_frames

SILENCE_LUFS = -70.0
"""The absolute gate of ITU-R BS.1770-4: what lies below counts as silence, and FFmpeg reports nothing less."""
SILENCE_DBTP = -120.0
_BLOCK = 0.4  # seconds; BS.1770's gating block
_HOP = 0.1


class Loudness(NamedTuple):
    """Integrated loudness (LUFS, at least -70) and true peak (dBTP, at least -120) of a whole clip."""

    lufs: float
    true_peak: float


def loudness(wave: np.ndarray, rate: int) -> Loudness:
    """Measures (N, 1) or (N, 2) fp32 in [-1, 1].

    BS.1770 adds the channels' energies, so one channel alone reads 3 dB less than the same sound on both. A clip
    shorter than one gating block (0.4 s) is measured as if it went on by repeating itself.
    """
    peak = float(np.abs(wave).max(initial=0.0))
    if peak < 10 ** (SILENCE_DBTP / 20):
        return Loudness(SILENCE_LUFS, SILENCE_DBTP)
    # the filter reports once every 0.1 s and with three decimals: the last report must lie behind the last sample,
    # and a quiet peak be lifted to where three decimals are enough
    hop = round(_HOP * rate)
    lifted = np.pad(wave / peak, ((0, -len(wave) % hop + hop), (0, 0)))
    true_peak = 20 * np.log10(_report(lifted, rate, "true_peak") * peak)
    repeats = -(-round(_BLOCK * rate) // len(wave))
    integrated = _report(np.tile(wave, (repeats, 1)), rate, "I")
    return Loudness(max(integrated, SILENCE_LUFS), max(float(true_peak), SILENCE_DBTP))


def _report(wave: np.ndarray, rate: int, figure: str) -> float:
    """One of the filter's figures, after the last whole 0.1 s: `I` or `true_peak` (linear)."""
    import av

    layout = LAYOUTS[wave.shape[1]]
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=rate, format="fltp", layout=layout, time_base=Fraction(1, rate))
    peak = "true" if figure == "true_peak" else "none"  # oversampling takes most of the time
    meter = graph.add("ebur128", f"peak={peak}:metadata=1:framelog=quiet")
    sink = graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    value = "nan"
    for frame in (*to_frames(wave, rate), None):
        graph.push(frame)
        while True:
            try:
                value = graph.pull().metadata.get(f"lavfi.r128.{figure}", value)
            except (BlockingIOError, EOFError):  # it wants the next frame, or there is none
                break
    return float(value)
