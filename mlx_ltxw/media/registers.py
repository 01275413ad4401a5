"""The register of a clip and of each of its seconds, what it rests on, and how sure that is.

Three questions one after another: is it speech (`speechlike`, by second); is the voice used (the voiced share of what
is spoken); is it soft. A voice is soft by effort when its harmonics fall steeply, its first one stands out and breath
fills the gaps, at any level. It is soft by level when it is quiet, which a gain may have done too: that is never said
with more than 0.65, unless there is a normal voice to compare with, or louder parts in the clip itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mlx_ltxw.media import fitted
from mlx_ltxw.media.pitch import HOP, SILENCE_LEVEL, SPEECH_LEVEL, Frames, PitchTrack, loudest
from mlx_ltxw.media.speechlike import figures, windows

REGISTERS = ("normal", "soft", "whispering")
MIXED = "mixed"
NO_SPEECH = "no speech"

# Where the thresholds come from: 336 espeak-ng clips (20 voices, 10 whispers, 4 to 8 sentences; the tests print a table
# of such clips). Voiced share: whispers 0.00, voices 0.85 to 1.00, voices in white noise of their own power 0.59; so
# whispering lies below 0.45. Loudness on two loudspeakers: voices -20 to -13 LUFS, the same at 0.25 to 0.28 of the
# amplitude -32 to -25; so soft lies below -23. A clip brought to a loudness target has lost what tells these two apart.
WHISPER_VOICED = 0.45
SOFT_LUFS = -23.0
SOFT_BELOW_REFERENCE = 6.0  # dB; what a listener calls half as loud is 10 dB
_VOICED_SPREAD = 0.08  # how far from a threshold the confidence is 0.73
_LUFS_SPREAD = 1.0
_REFERENCE_SPREAD = 1.5
_BY_LEVEL_ALONE = 0.65  # the most that is said
_MOST = 0.97
_ENOUGH_SPEECH = 0.5  # seconds; less than that lowers the confidence

_FAINT = 0.01  # of the loudest speech of the clip; no speech is fainter
_AROUND = 3.0  # seconds over which the level is compared, so that a whisper after a voice is not a pause
_ACTIVE = 0.12  # of a second that must be spoken in
_TOGETHER = 0.8  # s of speech over which voice is looked for: longer than any consonants
_LEAST_PART = 0.8  # s of speech of either kind in a mixed clip
_LEAST_SHARE = 0.15  # of its speech
_EFFORT_STEP = 3.0  # of the effort's score between a normal and a soft voice
_ENOUGH_VOICE = 20  # voiced frames of a second whose level counts
_LEVEL_STEP = 9.0  # dB between the softer and the louder part of a mixed clip
_EFFORT_BANDS = (5, 10, 15)  # of `pitch.BANDS`: 317 Hz, 1 kHz, 3.2 kHz

_BRIDGE = 0.128  # s; an unvoiced gap this short is a consonant of voiced speech (pYIN's frame at 16 kHz)
_STRETCH = 0.050  # s of voice on both sides of such a gap


@dataclass(frozen=True)
class Analysis:
    """What is known of a clip's voice, before the registers: T frames, S seconds."""

    speech: np.ndarray  # (S,) probability that the second is spoken in
    likely: np.ndarray  # (T,) bool: frames of such seconds
    spoken: np.ndarray  # (T,) bool: frames of speech, faint parts included
    voiced: np.ndarray  # (T,) bool: of these, the voiced ones, consonants between them included
    level: np.ndarray  # (T,) dB
    effort: np.ndarray | None  # (6,) `effort_figures`; None with too little voice


class Verdict(NamedTuple):
    """The register, how sure it is (0 to 1), in words what it rests on, and that of each second."""

    register: str
    confidence: float
    rests_on: str
    by_second: tuple[str, ...]


class Reference(NamedTuple):
    """A normal voice to compare with: its loudness on two loudspeakers and its `effort_figures`."""

    lufs: float
    effort: np.ndarray | None


def activity(frames: Frames, pitch: PitchTrack) -> Analysis:
    """Finds the speech in a clip, and the voice in the speech."""
    chance = np.zeros(-(-len(frames.level) // round(1 / HOP)))
    for second, window in enumerate(windows(frames)[: len(chance)]):
        found = figures(frames, pitch, window)
        if found is not None:
            chance[second] = _logistic(fitted.SPEECH.score(found))
    active = _active(frames.level)
    likely = np.repeat(chance > 0.5, round(1 / HOP))[: len(active)]
    spoken = active & likely
    voiced = bridged(pitch.voiced) & active
    effort = effort_figures(frames, pitch, spoken & pitch.voiced)
    level = 20 * np.log10(np.maximum(frames.level, 1e-9))
    return Analysis(chance, likely, spoken, voiced, level, effort)


def _active(level: np.ndarray) -> np.ndarray:
    """(T,) bool: frames over 5 % of the loudest around them, and over 1 % of the loudest of all."""
    size = round(_AROUND / HOP)
    near = [loudest(level[at : at + size]) for at in range(0, len(level), size)]
    threshold = np.maximum(SPEECH_LEVEL * np.repeat(near, size)[: len(level)], _FAINT * loudest(level))
    return level > np.maximum(threshold, SILENCE_LEVEL)


def bridged(voiced: np.ndarray) -> np.ndarray:
    """(T,) bool with short unvoiced gaps between two stretches of voice counted as voice.

    Without that, a voiced share would tell how many of a sentence's consonants are voiceless; with it, it agrees with
    pYIN at 16 kHz and its usual 2048-sample frames (espeak-ng voices: 0.95 and 0.96; whispers: 0.00 and 0.05).
    """
    filled = voiced.copy()
    change = np.flatnonzero(np.diff(voiced.astype(int), prepend=0, append=0))
    starts, ends = change[::2], change[1::2]
    long = ends - starts >= round(_STRETCH / HOP)
    for i in np.flatnonzero(long[:-1] & long[1:] & (starts[1:] - ends[:-1] <= round(_BRIDGE / HOP))):
        filled[ends[i] : starts[i + 1]] = True
    return filled


def effort_figures(frames: Frames, pitch: PitchTrack, voiced: np.ndarray) -> np.ndarray | None:
    """What vocal effort changes, of the voiced frames (T,) bool; None with less than 0.3 s of them.

    -> (6,): dB of 1 to 3.2 kHz over 317 Hz to 1 kHz, dB an octave from 317 Hz to 3.2 kHz, H1-H2 in dB, how much of the
    voice is left between 1.5 and 3.5 kHz, harmonics to noise in dB, octaves of the pitch over 100 Hz.
    """
    if voiced.sum() < 0.3 / HOP:
        return None
    low, middle, high = _EFFORT_BANDS
    power = frames.bands[:, low:high][voiced]
    part = middle - low
    ratio = 10 * np.log10((power[:, part:].sum(axis=1) + 1e-14) / (power[:, :part].sum(axis=1) + 1e-14))
    density = 10 * np.log10(power.mean(axis=0, dtype=np.float64) + 1e-14) - 10 / 3 * np.log10(2) * np.arange(high - low)
    slope = 3 * float(np.polyfit(np.arange(high - low), density, 1)[0])
    r = frames.periodicity[voiced]
    noise = float(np.median(10 * np.log10(r / (1 - r))))
    first, breath = float(np.median(frames.first[voiced])), float(np.median(frames.breath[voiced]))
    return np.array([np.median(ratio), slope, first, breath, noise, np.log2(np.median(pitch.f0[voiced]) / 100)])


def judge(analysis: Analysis, lufs: float, reference: Reference | None = None) -> Verdict:
    """The register of what was heard; `lufs` is that of two loudspeakers."""
    seconds = len(analysis.speech)
    speech = speech_chance(analysis.speech)
    if speech <= 0.5 or not analysis.spoken.any():
        enough = min(1.0, len(analysis.level) * HOP / _ENOUGH_SPEECH)
        return Verdict(NO_SPEECH, min(_MOST, 1 - speech) * enough, _why_none(analysis), (NO_SPEECH,) * seconds)
    spoken = analysis.spoken
    whispered = _whispered(analysis)
    parts = (whispered, spoken & ~whispered)  # whispered, voiced
    lengths = [part.sum() * HOP for part in parts]
    least = max(_LEAST_PART, _LEAST_SHARE * sum(lengths))
    voice = _voice(analysis, parts[1], lufs, reference) if lengths[1] else None
    by_second = _by_second(analysis, whispered, voice)
    share = float(analysis.voiced[spoken].mean())
    whispering = _logistic((WHISPER_VOICED - share) / _VOICED_SPREAD)
    if min(lengths) >= least:
        sure = min(_logistic(abs(analysis.voiced[part].mean() - WHISPER_VOICED) / _VOICED_SPREAD) for part in parts)
        sure *= _logistic(4 * math.log(min(lengths) / least) + 1)
        register, why = MIXED, f"{lengths[0]:.1f} s without voice, {lengths[1]:.1f} s with"
    elif lengths[0] > lengths[1] or voice is None:
        register, sure, why = "whispering", whispering, f"{share:.0%} of the speech is voiced"
    else:
        register, sure, why = voice.register, voice.confidence * (1 - whispering), voice.rests_on
    enough = min(1.0, spoken.sum() * HOP / _ENOUGH_SPEECH)
    return Verdict(register, min(_MOST, sure * speech) * enough, why, by_second)


def speech_chance(chance: np.ndarray) -> float:
    """Of the whole clip, from the probabilities (S,) of its seconds: the likeliest quarter of them decides."""
    if not len(chance) or not chance.any():
        return 0.0
    logit = np.log((chance + 1e-6) / (1 - chance + 1e-6))
    top = np.sort(logit[chance > 0])[-max(1, -(-len(chance) // 4)) :]
    return _logistic(fitted.CLIP[0] * float(top.mean()) + fitted.CLIP[1])


def _whispered(analysis: Analysis) -> np.ndarray:
    """(T,) bool: spoken frames about which, for 0.8 s of speech, there is hardly any voice."""
    at = np.flatnonzero(analysis.spoken)
    size = min(len(at), round(_TOGETHER / HOP))
    count = np.convolve(np.ones(len(at)), np.ones(size), "same")
    share = np.convolve(analysis.voiced[at], np.ones(size), "same") / count
    whispered = np.zeros_like(analysis.spoken)
    whispered[at] = share < WHISPER_VOICED
    return whispered


def _by_second(analysis: Analysis, whispered: np.ndarray, voice: _Voice | None) -> tuple[str, ...]:
    hop = round(1 / HOP)
    names = []
    for second in range(len(analysis.speech)):
        spoken = analysis.spoken[second * hop : (second + 1) * hop]
        if spoken.mean() < _ACTIVE:
            names.append(NO_SPEECH)
        elif voice is None or whispered[second * hop : (second + 1) * hop].sum() > spoken.sum() / 2:
            names.append("whispering")
        else:
            names.append(voice.by_second[second])
    return tuple(names)


class _Voice(NamedTuple):
    """`Verdict` of the voiced parts alone."""

    register: str
    confidence: float
    rests_on: str
    by_second: tuple[str, ...]


def _voice(analysis: Analysis, part: np.ndarray, lufs: float, reference: Reference | None) -> _Voice:
    """Normal or soft, by effort or by level, or both one after the other."""
    seconds = len(analysis.speech)
    power = 10 ** (analysis.level / 10)
    lufs += 10 * math.log10(power[part].mean() / power[analysis.spoken].mean())
    softer = _softer_seconds(analysis, part)
    effort = 0.5 if analysis.effort is None else _logistic(fitted.EFFORT.score(analysis.effort))
    if reference is not None:
        register, sure, why = _compared(lufs, effort, analysis.effort, reference)
    elif effort > 0.5:
        register, sure, why = "soft", effort, "effort: a steep spectrum and breath in the voice, at any level"
    else:
        register, sure, why = _by_level(lufs, effort)
    if softer is None or (register == "soft" and effort > 0.5):
        return _Voice(register, sure, why, (register,) * seconds)
    names = tuple("soft" if soft else "normal" for soft in softer[0])
    return _Voice(MIXED, softer[2], f"{softer[1]:.0f} dB between its softer and its louder part", names)


def _by_level(lufs: float, effort: float) -> tuple[str, float, str]:
    quiet = _logistic((SOFT_LUFS - lufs) / _LUFS_SPREAD)
    if quiet > 0.5:
        sure = 0.5 + (_BY_LEVEL_ALONE - 0.5) * (2 * quiet - 1)
        return "soft", sure, f"level alone ({lufs:.0f} LUFS); the spectrum is a full voice's, so it may be turned down"
    return "normal", (1 - effort) * (0.5 + 0.45 * (1 - 2 * quiet)), f"a full voice's spectrum at {lufs:.0f} LUFS"


def _compared(lufs: float, effort: float, figures: np.ndarray | None, reference: Reference) -> tuple[str, float, str]:
    below = reference.lufs - lufs
    quiet = _logistic((below - SOFT_BELOW_REFERENCE) / _REFERENCE_SPREAD)
    if figures is not None and reference.effort is not None:  # the microphone's own colour is in both
        steeper = fitted.EFFORT.score(figures) - fitted.EFFORT.score(reference.effort)
        effort = _logistic(steeper - _EFFORT_STEP)
    if effort > max(quiet, 0.5):
        return "soft", effort, "effort: a steeper spectrum and more breath than the reference"
    words = f"{abs(below):.1f} dB {'below' if below >= 0 else 'above'} the reference"
    return ("soft", quiet, words) if quiet > 0.5 else ("normal", (1 - quiet) * (1 - effort / 2), words)


def _softer_seconds(analysis: Analysis, part: np.ndarray) -> tuple[np.ndarray, float, float] | None:
    """Which seconds (S,) are of a softer part, by how many dB, how sure that is; None if all are alike."""
    hop = round(1 / HOP)
    count = len(analysis.speech)
    voiced = np.pad(part & analysis.voiced, (0, count * hop - len(part))).reshape(count, hop)
    power = np.pad(10 ** (analysis.level / 10), (0, count * hop - len(part))).reshape(count, hop)
    held = np.flatnonzero(voiced.sum(axis=1) >= _ENOUGH_VOICE)
    if len(held) < 4:
        return None
    level = 10 * np.log10((power * voiced).sum(axis=1)[held] / voiced.sum(axis=1)[held])
    order = np.sort(level)
    splits = [(i * (len(order) - i) * (order[i:].mean() - order[:i].mean()) ** 2, i) for i in range(1, len(order))]
    at = max(splits)[1]
    step = float(order[at:].mean() - order[:at].mean())
    soft = level < (order[at - 1] + order[at]) / 2
    changes = int((np.diff(soft.astype(int)) != 0).sum())
    least = max(2, _LEAST_SHARE * len(held))
    if step < _LEVEL_STEP or min(at, len(order) - at) < least or changes > 1 + len(held) // 6:
        return None
    middle = np.interp(np.arange(count), held, level) < (order[at - 1] + order[at]) / 2
    return middle, step, min(0.9, _logistic((step - _LEVEL_STEP) / 2 + 0.3))


def _why_none(analysis: Analysis) -> str:
    if analysis.level.max(initial=-200.0) < 20 * math.log10(SILENCE_LEVEL):
        return "silence"
    if analysis.voiced.mean() > 0.5:
        return "a tone whose colour and pitch do not move as in speech"
    return "a sound whose colour does not change as in speech"


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, x))))
