"""Takes the constant offset out of decoded sound, which a vocoder that was trained on little can leave."""

from __future__ import annotations

import math

import numpy as np

LOWEST = 20.0
"""Hz; what lies above stays, and below it nothing is heard."""
_ATTENUATION = 105.0  # dB that the window is made for; 100 are asked of it, and a 16-bit step is 96 below full scale


def remove_offset(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Subtracts what a zero-phase low-pass leaves of a sound: an offset goes, all above 20 Hz stays within 0.0001 dB.

    The low-pass is a Kaiser window's (Kaiser 1974) of 0.34 s, with gain 1 at 0 Hz; beyond its ends the sound is taken
    to be mirrored, so that an offset is one to the last sample.

    Args:
        waveform: (N, channels) fp32.
        rate: Samples a second.

    Returns:
        (N, channels) fp32.
    """
    if not len(waveform):
        return waveform
    taps = low_pass(rate)
    half = len(taps) // 2
    padded = np.pad(waveform.astype(np.float64), ((half, half), (0, 0)), mode="symmetric")
    size = 1 << (len(padded) + len(taps) - 1).bit_length()
    spectrum = np.fft.rfft(padded, size, axis=0) * np.fft.rfft(taps, size)[:, None]
    slow = np.fft.irfft(spectrum, size, axis=0)[2 * half : 2 * half + len(waveform)]
    return (waveform - slow).astype(np.float32)


def low_pass(rate: int) -> np.ndarray:
    """(odd,) fp64 taps that add up to 1; above `LOWEST` their response is below -100 dB."""
    beta = 0.1102 * (_ATTENUATION - 8.7)
    half = math.ceil((_ATTENUATION - 8) / (2.285 * 2 * math.pi * LOWEST / rate) / 2)
    cutoff = LOWEST / rate  # twice LOWEST / 2, the middle of the transition from 0 to LOWEST, in cycles a sample
    taps = np.sinc(cutoff * np.arange(-half, half + 1)) * np.kaiser(2 * half + 1, beta)
    return taps / taps.sum()
