"""Sounds with known properties, made without the code under test."""

import shutil
import subprocess

import numpy as np
import pytest
import scipy.linalg
import scipy.signal

RATE = 16000
ESPEAK = shutil.which("espeak-ng")
needs_espeak = pytest.mark.skipif(ESPEAK is None, reason="espeak-ng is not installed (apt install espeak-ng)")

FORMANTS = ((650, 80), (1100, 90), (2500, 120), (3400, 150))


def tone(hertz, seconds=1.0, rate=48000, amplitude=0.5, channels=2):
    """A sine, (N, channels) fp32."""
    wave = amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def noise(seconds=1.0, rate=RATE, slope=0.0, seed=0):
    """Gaussian noise whose power density falls by `slope` dB an octave (white 0, pink -3.01), (N,), rms 0.1."""
    white = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    hertz = np.fft.rfftfreq(len(white), 1 / rate)
    hertz[0] = hertz[1]
    shaped = np.fft.irfft(np.fft.rfft(white) * hertz ** (slope / (20 * np.log10(2))), len(white))
    return 0.1 * shaped / shaped.std()


def resonate(x, formants=FORMANTS):
    """Runs x through a cascade of formants (Hz, bandwidth)."""
    for hertz, width in formants:
        r = np.exp(-np.pi * width / RATE)
        x = scipy.signal.lfilter([1], [1, -2 * r * np.cos(2 * np.pi * hertz / RATE), r * r], x)
    return x


def vowel(f0, noise_ratio=0.0, seed=0):
    """Glottal pulses at f0 (N,) Hz through four formants at 16 kHz, (N,), rms 0.1, plus white noise."""
    fine = 8
    phase = np.cumsum(np.repeat(f0, fine) / (RATE * fine))
    pulses = np.diff(np.floor(phase), prepend=0)
    x = scipy.signal.lfilter([1], [1, -0.95], scipy.signal.resample_poly(pulses, 1, fine))
    x = resonate(x)
    return 0.1 * (x / x.std() + noise_ratio * np.random.default_rng(seed).standard_normal(len(x)))


def whispered(x, seed=0, order=18, size=512, hop=128):
    """Speech at 16 kHz with its voice taken out: each frame's linear prediction filter, fed with white noise."""
    source = np.random.default_rng(seed).standard_normal(len(x) + size)
    out, window = np.zeros(len(x) + size), np.hanning(size)
    for at in range(0, len(x) - size, hop):
        piece = x[at : at + size] * window
        r = np.correlate(piece, piece, "full")[size - 1 : size + order]
        if r[0] < 1e-6:
            continue
        r[0] *= 1.0001
        predictor = scipy.linalg.solve_toeplitz(r[:-1], r[1:])
        gain = np.sqrt(max(r[0] - predictor @ r[1:], 0) / size)
        out[at : at + size] += window * scipy.signal.lfilter([gain], np.r_[1, -predictor], source[at : at + size])
    return out[: len(x)]


def speak(path, voice, text, *options):
    """Writes espeak-ng's speech (22.05 kHz mono)."""
    subprocess.run([ESPEAK, "-v", f"en+{voice}", "-w", str(path), *options, text], check=True)
    return path


def moving_picture(frames, height, width):
    """Smooth coloured waves that drift, (frames, height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    planes = [
        np.stack([128 + 100 * np.sin(x / 20 + i / 5), 128 + 100 * np.cos(y / 15 + i / 7), 60 + (x + y + i) % 128], -1)
        for i in range(frames)
    ]
    return np.stack(planes).astype(np.uint8)
