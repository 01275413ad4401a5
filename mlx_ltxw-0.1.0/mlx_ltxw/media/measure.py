"""What a voice does, in figures, and the register that they imply."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import as_waveform, read_audio
from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.loudness import loudness
from mlx_ltxw.media.pitch import HOP, RATE, Frames, PitchTrack, analyse, loudest, to_mono, track

REGISTERS = ("normal", "soft", "whispering")

# Where the thresholds come from: 336 espeak-ng clips (20 voices, 10 whispers, 4 to 8 sentences; the tests print a table
# of such clips). Voiced share: whispers 0.00, voices 0.85 to 1.00, voices in white noise of their own power 0.59; so
# whispering lies below 0.45. Loudness on two loudspeakers: voices -20 to -13 LUFS, the same at 0.25 to 0.28 of the
# amplitude -32 to -25; so soft lies below -23. A clip brought to a loudness target has lost what tells these two apart.
WHISPER_VOICED = 0.45
SOFT_LUFS = -23.0
_MONO = 3.01  # dB that a mono clip gains when both loudspeakers play it
_VOICED_SPREAD = 0.08  # how far from a threshold the confidence is 0.73
_LUFS_SPREAD = 1.0
_ENOUGH_SPEECH = 0.5  # seconds; less than that lowers the confidence

_BRIDGE = 0.128  # s; an unvoiced gap this short is a consonant of voiced speech (pYIN's frame at 16 kHz)
_STRETCH = 0.050  # s of voice on both sides of such a gap
_TILT_BAND = (100.0, 5000.0)
_SYLLABLE_BAND = (300.0, 2500.0)
_DIP_DB = 2.0  # between two syllables (de Jong and Wempe 2009)
_QUIET_DB = 25.0  # below the loudest syllable there are none (same source)


@dataclass(frozen=True)
class Measurement:
    """Figures of one clip; what cannot be known of a clip without speech is None."""

    register: str | None  # one of REGISTERS
    confidence: float  # 0 to 1
    lufs: float  # integrated, EBU R128, of the channels as they are; -70 is silence
    true_peak: float  # dBTP
    voiced: float  # share of the speech that is voiced, 0 to 1
    f0: float | None  # median over voiced frames, Hz
    hnr: float | None  # harmonics to noise, median over speech, dB
    tilt: float | None  # of the long-term spectrum of the speech, dB an octave
    centroid: float | None  # of the same, power-weighted, Hz
    rate: float  # syllable-like peaks a second of speech
    duration: float  # s

    def minus(self, other: Measurement) -> dict[str, float | None]:
        """This less `other`, figure by figure; None where one of them has none."""
        names = [name for name in self.__dataclass_fields__ if name not in ("register", "confidence")]
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return {name: None if a is None or b is None else a - b for name, (a, b) in pairs.items()}


def measure(source: Path | str | np.ndarray, rate: int | None = None) -> Measurement:
    """Measures a file, or samples.

    Args:
        source: A file with sound, or (N,) or (N, 2) samples in [-1, 1].
        rate: Of the samples, Hz.

    Raises:
        UserError: the file cannot be read or holds no samples.
    """
    if isinstance(source, np.ndarray):
        if rate is None:
            raise ValueError("samples need their rate")
        name, samples = "The clip", source
    else:
        info = probe(source)
        rate = info.rate or 48000
        name, samples = str(source), read_audio(source, rate, 1 if info.channels == 1 else 2)
    wave = as_waveform(samples, name)
    if not len(wave):
        raise UserError(f"{name} is empty.", "Give a clip with sound.")
    lufs, true_peak = loudness(wave, rate)
    mono = to_mono(wave, rate)
    frames = analyse(mono)
    pitch = track(frames)
    speech = frames.speech
    voiced = _voiced_share(pitch, speech)
    tilt, centroid = _spectral_shape(mono, speech, min(_TILT_BAND[1], 0.4 * rate))
    heard = lufs + (_MONO if wave.shape[1] == 1 else 0.0)
    register, confidence = imply_register(voiced, heard, float(speech.sum()) * HOP)
    return Measurement(
        register=register,
        confidence=confidence,
        lufs=lufs,
        true_peak=true_peak,
        voiced=voiced,
        f0=float(np.median(pitch.f0[pitch.voiced])) if pitch.voiced.any() else None,
        hnr=_harmonics_to_noise(frames, speech),
        tilt=tilt,
        centroid=centroid,
        rate=_syllable_rate(mono, speech),
        duration=len(wave) / rate,
    )


def imply_register(voiced: float, lufs: float, speech: float) -> tuple[str | None, float]:
    """The register of a clip with `speech` seconds of speech, and a confidence in 0 to 1.

    `lufs` is that of two loudspeakers. Too little voicing is whispering at any loudness; voiced speech is soft below
    -23 LUFS. The confidence is logistic in the distances from both thresholds.
    """
    if not speech:
        return None, 0.0
    whispering = _logistic((WHISPER_VOICED - voiced) / _VOICED_SPREAD)
    soft = _logistic((SOFT_LUFS - lufs) / _LUFS_SPREAD)
    if whispering > 0.5:
        register, sure = "whispering", whispering
    else:
        register, sure = ("soft", soft) if soft > 0.5 else ("normal", 1 - soft)
        sure *= 1 - whispering
    return register, sure * min(1.0, speech / _ENOUGH_SPEECH)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, x))))


def _voiced_share(pitch: PitchTrack, speech: np.ndarray) -> float:
    """Voiced frames among speech frames, where a short unvoiced gap between two stretches of voice counts as voiced.

    Without that, the share would tell how many of a sentence's consonants are voiceless; with it, it agrees with pYIN
    at 16 kHz and its usual 2048-sample frames (espeak-ng voices: 0.95 and 0.96; whispers: 0.00 and 0.05).
    """
    if not speech.any():
        return 0.0
    voiced = pitch.voiced.copy()
    change = np.flatnonzero(np.diff(voiced.astype(int), prepend=0, append=0))
    starts, ends = change[::2], change[1::2]
    long = ends - starts >= round(_STRETCH / HOP)
    for i in range(len(starts) - 1):
        if long[i] and long[i + 1] and starts[i + 1] - ends[i] <= round(_BRIDGE / HOP):
            voiced[ends[i] : starts[i + 1]] = True
    return float(voiced[speech].mean())


def _harmonics_to_noise(frames: Frames, speech: np.ndarray) -> float | None:
    """Median over speech frames of 10 log10(r / (1 - r)), r the greatest normalised autocorrelation (Boersma 1993)."""
    if not speech.any():
        return None
    r = frames.periodicity[speech]
    return float(np.median(10 * np.log10(r / (1 - r))))


def _spectral_shape(mono: np.ndarray, speech: np.ndarray, top: float) -> tuple[float | None, float | None]:
    """-> (tilt, centroid) of the mean power density of speech frames; the tilt is fitted to third-octave bands."""
    if not speech.any():
        return None, None
    size, hop = 512, round(HOP * RATE)
    padded = np.pad(mono, (size // 2, size // 2 + hop))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][: len(speech)][speech]
    power = (np.abs(np.fft.rfft(windows * np.hanning(size))) ** 2).mean(axis=0)
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    centroid = float((hertz * power).sum() / power.sum())
    edges = _TILT_BAND[0] * 2 ** (np.arange(0, 1 + int(3 * np.log2(top / _TILT_BAND[0]))) / 3)
    density = [power[(hertz >= low) & (hertz < high)] for low, high in pairwise(edges)]
    octaves = np.log2(edges[:-1] * 2 ** (1 / 6))
    held = [i for i, band in enumerate(density) if len(band) and band.mean() > 0]
    level = 10 * np.log10([density[i].mean() for i in held])
    return float(np.polyfit(octaves[held], level, 1)[0]), centroid


def _syllable_rate(mono: np.ndarray, speech: np.ndarray) -> float:
    """Peaks of the loudness curve of 300-2500 Hz that stand 2 dB above the dips beside them, a second of speech."""
    if not speech.any():
        return 0.0
    spectrum = np.fft.rfft(mono)
    hertz = np.fft.rfftfreq(len(mono), 1 / RATE)
    band = np.fft.irfft(spectrum * ((hertz >= _SYLLABLE_BAND[0]) & (hertz <= _SYLLABLE_BAND[1])), len(mono))
    hop = round(HOP * RATE)
    energy = np.pad(band**2, (0, -len(band) % hop)).reshape(-1, hop).mean(axis=1)
    smooth = np.hanning(13)[1:-1]  # 120 ms: shorter than a syllable, longer than a pitch period
    curve = 10 * np.log10(np.convolve(energy, smooth / smooth.sum(), "same") + 1e-12)
    at = np.flatnonzero(speech)
    spoken = curve[at[0] : at[-1] + 1]
    peaks = _count_peaks(spoken, _DIP_DB, loudest(spoken) - _QUIET_DB)
    return float(peaks / (len(spoken) * HOP))


def _count_peaks(curve: np.ndarray, dip: float, floor: float) -> int:
    """Rises of at least `dip` followed by falls of at least `dip` (or the end), whose tops are over `floor`."""
    count, rising, low, high = 0, False, math.inf, -math.inf
    for value in curve:
        low, high = min(low, value), max(high, value)
        if not rising and value >= low + dip:
            rising, high = True, value
        elif rising and value <= high - dip:
            count += high > floor
            rising, low = False, value
    return count + (rising and high > floor)
