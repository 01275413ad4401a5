"""What a voice does, in figures, and the register that they imply."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import as_waveform
from mlx_ltxw.media.ear import Ear
from mlx_ltxw.media.loudness import Meter
from mlx_ltxw.media.pitch import BANDS, HOP, Frames, analyse, loudest, track
from mlx_ltxw.media.registers import MIXED, NO_SPEECH, REGISTERS, Reference, activity, bridged, judge
from mlx_ltxw.media.sound import opened_sound, slices

__all__ = ["MIXED", "NO_SPEECH", "REGISTERS", "Measurement", "measure"]

_MONO = 3.01  # dB that a mono clip gains when both loudspeakers play it
_CANCELLED = 0.1  # of the clip
_TILT_TOP = 5000.0  # Hz
_SYLLABLE_BANDS = slice(5, 14)  # of `pitch.BANDS`: 317 Hz to 2.5 kHz
_DIP_DB = 2.0  # between two syllables (de Jong and Wempe 2009)
_QUIET_DB = 25.0  # below the loudest syllable there are none (same source)


@dataclass(frozen=True)
class Measurement:
    """Figures of one clip; what cannot be known of a clip without sound is None.

    Of a clip with speech, `voiced` to `rate` are those of the speech; of another, of its louder sounds.
    """

    register: str  # one of REGISTERS, `mixed` or `no speech`
    confidence: float  # 0 to 1
    rests_on: str  # what the register rests on, in words
    lufs: float  # integrated, EBU R128, of the channels as they are; -70 is silence
    true_peak: float  # dBTP
    voiced: float  # share of the speech that is voiced, 0 to 1
    f0: float | None  # median over voiced frames, Hz
    hnr: float | None  # harmonics to noise, median over speech, dB
    tilt: float | None  # of the long-term spectrum of the speech, dB an octave
    centroid: float | None  # of the same, power-weighted, Hz
    rate: float  # syllable-like peaks a second of speech
    duration: float  # s
    by_second: tuple[str, ...]  # the register of each second, `no speech` in pauses
    notes: tuple[str, ...]  # what else is to be known about the sound
    reference: Reference = field(repr=False, compare=False)  # what another clip is compared with

    def minus(self, other: Measurement) -> dict[str, float | None]:
        """This less `other`, figure by figure; None where one of them has none."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in FIGURES}
        return {name: None if a is None or b is None else a - b for name, (a, b) in pairs.items()}

    def as_dict(self) -> dict[str, object]:
        """All that is measured, as JSON takes it."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "reference"}


FIGURES = ("lufs", "true_peak", "voiced", "f0", "hnr", "tilt", "centroid", "rate", "duration")
"""The names of a measurement's numbers, but for the confidence."""


def measure(
    source: Path | str | np.ndarray, rate: int | None = None, *, reference: Measurement | None = None
) -> Measurement:
    """Measures a file, or samples; an hour takes no more memory than its figures need, about 150 MB.

    Args:
        source: A file with sound, or (N,) or (N, 2) samples in [-1, 1].
        rate: Samples a second.
        reference: A clip of the same voice and microphone, spoken normally: soft is then what is softer than it.

    Raises:
        UserError: the file cannot be read or holds no samples.
    """
    if isinstance(source, np.ndarray):
        if rate is None:
            raise ValueError("samples need their rate")
        wave = as_waveform(source, "The clip")
        return _measured("The clip", rate, wave.shape[1], slices(wave, rate), reference)
    with opened_sound(source) as (rate, channels, blocks):
        return _measured(str(source), rate, channels, blocks, reference)


def _measured(
    name: str, rate: int, channels: int, blocks: Iterable[np.ndarray], reference: Measurement | None
) -> Measurement:
    meter, ear = Meter(rate, channels), Ear(rate, channels)

    def metered() -> Iterator[np.ndarray]:
        for block in blocks:
            meter.push(as_waveform(block, name))
            yield block

    frames = analyse(ear.hear(metered()))
    if not meter.count:
        raise UserError(f"{name} is empty.", "Give a clip with sound.")
    loudness, duration = meter.result(), meter.count / rate
    pitch = track(frames)
    analysis = activity(frames, pitch)
    as_played = loudness.lufs + (_MONO if channels == 1 else 0.0)
    verdict = judge(analysis, as_played, reference.reference if reference else None)
    speech = frames.speech & analysis.likely
    if verdict.register == NO_SPEECH or not speech.any():
        speech = frames.speech
    tilt, centroid = _spectral_shape(frames, speech, min(_TILT_TOP, 0.4 * rate))
    f0 = pitch.f0[pitch.voiced & speech]
    return Measurement(
        register=verdict.register,
        confidence=verdict.confidence,
        rests_on=verdict.rests_on,
        lufs=loudness.lufs,
        true_peak=loudness.true_peak,
        voiced=float(bridged(pitch.voiced)[speech].mean()) if speech.any() else 0.0,
        f0=float(np.median(f0)) if len(f0) else None,
        hnr=_harmonics_to_noise(frames, speech),
        tilt=tilt,
        centroid=centroid,
        rate=_syllable_rate(frames, speech),
        duration=duration,
        by_second=verdict.by_second,
        notes=_notes(ear.cancelled, duration),
        reference=Reference(as_played, analysis.effort),
    )


def _notes(cancelled: float, duration: float) -> tuple[str, ...]:
    if cancelled < _CANCELLED * duration:
        return ()
    return (f"For {cancelled:.1f} s the two channels cancel each other (opposite phase); their difference was heard.",)


def _harmonics_to_noise(frames: Frames, speech: np.ndarray) -> float | None:
    """Median over speech frames of 10 log10(r / (1 - r)), r the greatest normalised autocorrelation (Boersma 1993)."""
    if not speech.any():
        return None
    r = frames.periodicity[speech].astype(np.float64)
    return float(np.median(10 * np.log10(r / (1 - r))))


def _spectral_shape(frames: Frames, speech: np.ndarray, top: float) -> tuple[float | None, float | None]:
    """-> (tilt, centroid) of the mean power density of speech frames; the tilt is fitted to third-octave bands."""
    if not speech.any():
        return None, None
    weight = frames.level[speech].astype(np.float64) ** 2
    centroid = float((frames.centroid[speech] * weight).sum() / weight.sum())
    count = int(3 * np.log2(top / BANDS[0]))
    density = (speech.astype(np.float32) @ frames.bands)[:count] / speech.sum() / np.diff(BANDS)[:count]
    held = np.flatnonzero(density > 0)
    level = 10 * np.log10(density[held])
    return float(np.polyfit(np.log2(BANDS[held]), level, 1)[0]), centroid


def _syllable_rate(frames: Frames, speech: np.ndarray) -> float:
    """Peaks of the loudness curve of 317-2540 Hz that stand 2 dB above the dips beside them, a second of speech."""
    if not speech.any():
        return 0.0
    energy = frames.bands[:, _SYLLABLE_BANDS].sum(axis=1, dtype=np.float64)
    smooth = np.hanning(12)[1:-1]  # with the frame's own 50 ms: shorter than a syllable, longer than a pitch period
    curve = 10 * np.log10(np.convolve(energy, smooth / smooth.sum(), "same") + 1e-12)
    at = np.flatnonzero(speech)
    spoken = curve[at[0] : at[-1] + 1]
    peaks = _count_peaks(spoken, _DIP_DB, loudest(spoken) - _QUIET_DB)
    return float(peaks / (len(spoken) * HOP))


def _count_peaks(curve: np.ndarray, dip: float, floor: float) -> int:
    """Rises of at least `dip` followed by falls of at least `dip` (or the end), whose tops are over `floor`."""
    count, rising, low, high = 0, False, math.inf, -math.inf
    for value in curve.tolist():
        low, high = min(low, value), max(high, value)
        if not rising and value >= low + dip:
            rising, high = True, value
        elif rising and value <= high - dip:
            count += high > floor
            rising, low = False, value
    return count + (rising and high > floor)
