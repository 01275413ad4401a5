"""Peaks that leave room: a sound is turned down as a whole where its true peak is too high, and left alone else.

AAC adds to the peaks: hardly anything to voices, up to 1.7 dB to full-scale noise. So a sound that comes near the limit
is encoded and decoded, and what comes out is measured.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mlx_ltxw.media.loudness import loudness
from mlx_ltxw.media.mp4 import as_coded
from mlx_ltxw.pipeline.events import Decoded

HIGHEST = -1.0
"""dBTP; EBU R128's limit for what is passed on."""
_CODING = 2.5  # dB that AAC adds at the very most
_BETWEEN = 6.0  # dB that a peak between samples may be over the samples
_MARGIN = 0.05  # dB; meters differ
_TRIES = 4


def headroom_gain(wave: np.ndarray, rate: int) -> float:
    """dB, at most 0, by which (N, 1) or (N, 2) fp32 is to be turned down."""
    if not len(wave) or np.abs(wave).max() < 10 ** ((HIGHEST - _CODING - _BETWEEN) / 20):
        return 0.0
    peak = loudness(wave, rate).true_peak
    if peak < HIGHEST - _CODING:
        return 0.0
    gain = 0.0
    for _ in range(_TRIES):  # what AAC adds depends on the level, a little
        coded = loudness(as_coded(wave * np.float32(10 ** (gain / 20)), rate), rate).true_peak
        over = max(coded, peak + gain) - HIGHEST
        if over <= 0:
            break
        gain -= over + _MARGIN
    return gain


def with_headroom(wave: np.ndarray, rate: int) -> np.ndarray:
    """(N, 1) or (N, 2) fp32 whose true peak is -1 dBTP at most, as it is and out of AAC; the same array if it is."""
    gain = headroom_gain(wave, rate)
    return wave * np.float32(10 ** (gain / 20)) if gain else wave


def turned_down(clip: Decoded) -> Decoded:
    """A clip whose sound has headroom."""
    return dataclasses.replace(clip, waveform=with_headroom(clip.waveform, clip.rate))
