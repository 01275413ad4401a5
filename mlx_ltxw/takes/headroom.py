"""Peaks that leave room: a sound is turned down as a whole where its true peak is too high, and left alone else."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlx_ltxw.media.loudness import loudness
from mlx_ltxw.pipeline.events import Decoded

HIGHEST = -1.0
"""dBTP; EBU R128's limit for what is passed on."""
_CODING = 0.5  # dB that AAC may add to voices; to full-scale noise it adds up to 1.5


def headroom_gain(wave: np.ndarray, rate: int) -> float:
    """dB, at most 0, by which (N, 1) or (N, 2) fp32 is to be turned down."""
    highest = HIGHEST - _CODING
    if not len(wave) or np.abs(wave).max() < 10 ** ((highest - 6) / 20):  # no peak between samples is 6 dB higher
        return 0.0
    return min(0.0, highest - loudness(wave, rate).true_peak)


def with_headroom(wave: np.ndarray, rate: int) -> np.ndarray:
    """(N, 1) or (N, 2) fp32 with its true peak at -1.5 dBTP at most; the same array if it is."""
    gain = headroom_gain(wave, rate)
    return wave * np.float32(10 ** (gain / 20)) if gain else wave


def turned_down(clip: Decoded) -> Decoded:
    """A clip whose sound has headroom."""
    return dataclasses.replace(clip, waveform=with_headroom(clip.waveform, clip.rate))
