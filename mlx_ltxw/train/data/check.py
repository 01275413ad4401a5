"""The data check: what would spoil a training run, found before any step."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import as_waveform
from mlx_ltxw.media.containers import collected_notes
from mlx_ltxw.media.measure import NO_SPEECH, REGISTERS, measure
from mlx_ltxw.media.registers import WHISPER_VOICED
from mlx_ltxw.prompts.registers import Register, parse
from mlx_ltxw.train.data.captions import asked_register
from mlx_ltxw.train.data.clip import TrainingClip, read_own_sound
from mlx_ltxw.train.data.findings import Finding, error, warning
from mlx_ltxw.train.data.known import Known, key_of
from mlx_ltxw.train.data.workers import each

FEW_CLIPS = 20
FEW_VOICES = 2
MANY_REPEATS = 3
"""Clips with one caption; several voices may well say the same line."""
UNBALANCED = 3.0
"""One register, or speaker, has more than this many times the clips of another."""
SILENT_LUFS = -60.0
SHORTEST = 1.0
"""Seconds of sound that a clip must have."""

_SURE = 0.75  # confidence of a measured register that contradicts a caption
_VOICED_FAR = 0.2  # from the voiced share that parts a whisper from a voice
_HURRIED = 1.6  # how many times faster than audiobooks people talk
_CLIPPED = 1e-3  # share of samples that are cut off
_LEVELS = 32  # between silence and the peak
_FAINT = 0.02  # 16-bit samples of fainter sounds have too few values to tell
_PILED_UP = 2.0  # times more samples than at a lower level


@dataclass(frozen=True)
class Sound:
    """What was measured of one clip.

    Attributes:
        digest: Hash of the samples, to find a sound that comes twice.
        clipped: See `clipped_share`.
        register, confidence, lufs, voiced: As `Measurement` has them.
    """

    digest: str
    clipped: float
    register: str
    confidence: float
    lufs: float
    voiced: float


@dataclass(frozen=True)
class Checked:
    """What the check leaves.

    Attributes:
        clips: Those without errors.
        findings: Faults of the data, clip by clip.
        statistics: Of the clips without errors, as JSON takes them.
    """

    clips: tuple[TrainingClip, ...]
    findings: tuple[Finding, ...]
    statistics: dict[str, Any]


def check(
    clips: Sequence[TrainingClip], progress: Callable[[int], object] = lambda _: None, known: Known | None = None
) -> Checked:
    """Listens to every clip and looks over the whole set.

    Args:
        clips: To be trained on.
        progress: Gets the number of clips done.
        known: Keeps what was heard, so that no clip is listened to twice.
    """
    known = known or Known()
    findings: list[Finding] = []
    good: list[tuple[TrainingClip, Sound]] = []
    for index, (clip, sound) in enumerate(zip(clips, _listened(clips, known), strict=True)):
        found = _about_caption(clip)
        if isinstance(sound, UserError):
            found.append(error(clip.name, "broken", str(sound)))
        else:
            found += _about_sound(clip, sound)
            if all(finding.severity == "warning" for finding in found):
                good.append((clip, sound))
        findings += found
        progress(index + 1)
    kept = tuple(clip for clip, _ in good)
    findings += _duplicates(good) + _about_set(kept)
    return Checked(kept, tuple(findings), _statistics(good))


def _listened(clips: Sequence[TrainingClip], known: Known) -> Iterator[Sound | UserError]:
    """Of each clip what is known of it, or what it sounds like, or why it cannot be read."""
    keys = [_key(clip) for clip in clips]
    there = [known.get(key, Sound) if isinstance(key, str) else key for key in keys]
    new = each(_try_listening, [clip for clip, sound in zip(clips, there, strict=True) if sound is None])
    for key, sound in zip(keys, there, strict=True):
        if sound is None:
            sound = next(new)
            if isinstance(sound, Sound) and isinstance(key, str):
                known.put(key, asdict(sound))
        yield sound


def _key(clip: TrainingClip) -> str | UserError:
    try:
        return key_of(clip.path, "sound", clip.window, clip.start, clip.end, clip.geometry.seconds)
    except UserError as problem:
        return problem


def _try_listening(clip: TrainingClip) -> Sound | UserError:
    with collected_notes():  # said when the clip was found
        try:
            return listen(clip)
        except UserError as problem:
            return problem


def listen(clip: TrainingClip) -> Sound:
    """Reads and measures a clip's sound at the file's own rate.

    Raises:
        UserError: the file cannot be read.
    """
    sound, rate = read_own_sound(clip)
    span = np.array([clip.start - clip.window, clip.end - clip.window]) * rate
    wave = as_waveform(sound)[slice(*span.round().astype(int).clip(0))]
    digest = hashlib.sha256(np.round(wave * 32767).clip(-32768, 32767).astype("<i2").tobytes()).hexdigest()
    measured = measure(wave, rate)
    register, confidence = measured.register, measured.confidence
    return Sound(digest, clipped_share(wave), register, confidence, measured.lufs, measured.voiced)


def clipped_share(wave: np.ndarray) -> float:
    """Share of the (N, C) samples of speech that were cut off at some level; about 0 where none were.

    Speech has the fewer samples at a level the higher it is. Cut off, they pile up there: in one level, or in a hump
    around it after a lossy codec, and at full scale or below it if the sound was turned down.
    """
    level = np.abs(wave)
    peak = float(level.max(initial=0.0))
    if peak < _FAINT:
        return 0.0
    counts = np.histogram(level, _LEVELS, (0, peak))[0]
    most = 0
    for top in range(_LEVELS // 4, _LEVELS):
        low = top // 2 + int(counts[top // 2 : top].argmin())
        if counts[top] > _PILED_UP * counts[low]:
            most = max(most, int((counts[low:] - counts[low]).clip(0).sum()))
    return most / level.size


def _about_sound(clip: TrainingClip, sound: Sound) -> list[Finding]:
    if sound.lufs <= SILENT_LUFS or sound.register == NO_SPEECH:
        return [error(clip.name, "silent", "There is no speech to be heard in the clip; leave it out.")]
    found = []
    if sound.clipped > _CLIPPED:
        text = f"The sound is clipped ({sound.clipped:.1%} of its samples are cut off); record or export it lower."
        found.append(warning(clip.name, "clipped", text))
    turns = parse(clip.caption).turns
    asked = {asked_register(turn) for turn in turns}
    if len(asked) == 1:
        (register,) = asked
        bare_soft = sound.register == "soft" and not any(turn.manner for turn in turns)
        # how loud a voice was is seldom sure; that it is one, or none, is
        voice = "whispering" in (register, sound.register) and abs(sound.voiced - WHISPER_VOICED) > _VOICED_FAR
        sure = sound.confidence >= _SURE or (voice and sound.register in REGISTERS)
        if register is not None and register != sound.register and sure and not bare_soft:
            found.append(warning(clip.name, "register", _mismatch(turns[0].manner, register, sound)))
    return found


def _mismatch(manner: str, asked: Register, measured: Sound) -> str:
    caption = f"'{manner}'" if manner else "no manner"
    return (
        f"The caption has {caption} ({asked}), but the sound measures as {measured.register} "
        f"({measured.voiced:.0%} voiced, {measured.lufs:.0f} LUFS); mend one of them."
    )


def _about_caption(clip: TrainingClip) -> list[Finding]:
    turns = parse(clip.caption).turns
    seconds = min(clip.end - clip.start, clip.geometry.seconds)
    if seconds < SHORTEST:
        return [error(clip.name, "too-short", f"The clip has {seconds:.2f} s of sound; {SHORTEST:g} are needed.")]
    found = []
    if seconds < clip.geometry.seconds / 2:
        text = f"Of {clip.geometry.seconds:.1f} s the clip fills {seconds:.1f}; the silence after it is learned too."
        found.append(warning(clip.name, "short", text))
    needed = sum(turn.seconds for turn in turns)
    if needed > _HURRIED * seconds:
        text = f"The caption's words take about {needed:.0f} s, the clip has {seconds:.1f} s; write what is heard."
        found.append(warning(clip.name, "too-many-words", text))
    if not all(turn.quoted for turn in turns):
        found.append(warning(clip.name, "quotes", "What is said stands in no double quotes; put it in them."))
    if len({asked_register(turn) for turn in turns}) > 1:
        found.append(warning(clip.name, "mixed-registers", "The caption has two registers; cut the clip in two."))
    return found


def _duplicates(good: Sequence[tuple[TrainingClip, Sound]]) -> list[Finding]:
    first: dict[str, str] = {}
    found = []
    for clip, sound in good:
        if sound.digest in first:
            text = f"The sound is the same as that of {first[sound.digest]}; leave one of them out."
            found.append(warning(clip.name, "duplicate", text))
        first.setdefault(sound.digest, clip.name)
    return found


def _about_set(clips: Sequence[TrainingClip]) -> list[Finding]:
    if not clips:
        return []
    found = []
    if len(clips) < FEW_CLIPS:
        text = f"There are {len(clips)} clips; with fewer than {FEW_CLIPS} an adapter learns the clips, not the manner."
        found.append(warning("", "few-clips", text))
    if len(_voices(clips)) < FEW_VOICES:
        text = f"All clips are of one voice ({next(iter(_voices(clips)))}), as far as is known; add others."
        found.append(warning("", "few-voices", text))
    without = sum(not clip.picture for clip in clips)
    if 0 < without < len(clips):
        text = f"{without} of {len(clips)} clips have no picture; the adapter hears those as sound alone."
        found.append(warning("", "mixed-media", text))
    turns = [turn for clip in clips for turn in parse(clip.caption).turns]
    found += _balance("register", Counter(asked_register(turn) or "another" for turn in turns))
    found += _balance("speaker", Counter(turn.speaker for turn in turns))
    return found + _repeats(clips)


def _balance(kind: str, counts: Counter[Any]) -> list[Finding]:
    ranked = counts.most_common()
    if not ranked or ranked[0][1] <= UNBALANCED * ranked[-1][1]:
        return []
    numbers = ", ".join(f"{name} {count}" for name, count in ranked)
    return [warning("", "unbalanced", f"The clips are unevenly shared among {kind}s: {numbers}; even them out.")]


def _repeats(clips: Sequence[TrainingClip]) -> list[Finding]:
    groups: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        groups[clip.caption.casefold()].append(clip.name)
    found = []
    for names in groups.values():
        if len(names) >= MANY_REPEATS:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            text = f"{len(names)} clips have this one's caption ({', '.join(names[1:4])}{more}); caption each."
            found.append(warning(names[0], "repeated-caption", text))
    return found


def _voices(clips: Sequence[TrainingClip]) -> set[str]:
    """Names of voices; a clip whose voice has none is told by its speaker alone."""
    speakers = [(clip.voice, "+".join(turn.speaker for turn in parse(clip.caption).turns)) for clip in clips]
    return {f"{voice}, {speaker}" if voice else speaker for voice, speaker in speakers}


def _statistics(good: Sequence[tuple[TrainingClip, Sound]]) -> dict[str, Any]:
    """Figures of a set for its model card."""
    clips = [clip for clip, _ in good]
    turns = [turn for clip in clips for turn in parse(clip.caption).turns]
    loud = [sound.lufs for _, sound in good]
    return {
        "clips": len(clips),
        "seconds": round(sum(min(clip.end - clip.start, clip.geometry.seconds) for clip in clips), 2),
        "with_picture": sum(clip.picture for clip in clips),
        "voices": len(_voices(clips)),
        "captions": len({clip.caption for clip in clips}),
        "speakers": _counts(turn.speaker for turn in turns),
        "manners": _counts(turn.manner for turn in turns),
        "measured_registers": _counts(str(sound.register) for _, sound in good),
        "median_lufs": round(float(np.median(loud)), 1) if loud else None,
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
