"""From the user's data to clips: found, cut, transcribed, captioned and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.containers import DAMAGED, collected_notes
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.prompts.registers import parse, slips
from mlx_ltxw.train.data.captions import CaptionFault, Labels, complete, compose, retell, spoken
from mlx_ltxw.train.data.check import check
from mlx_ltxw.train.data.clip import TrainingClip, held_frames
from mlx_ltxw.train.data.cutting import (
    LEAD,
    LEAST_SPEECH,
    RATE,
    Levels,
    Segment,
    cut,
    read_mono,
    sounds,
)
from mlx_ltxw.train.data.dataset import MediaSource, find_sources
from mlx_ltxw.train.data.examine import examine
from mlx_ltxw.train.data.findings import Finding, OnProgress, error, warning
from mlx_ltxw.train.data.known import Known, key_of
from mlx_ltxw.train.data.transcribe import Remembered, Transcriber, shifted, whisper
from mlx_ltxw.train.data.workers import each

_SLACK = 0.05  # seconds that a file may be longer than a clip without being cut


@dataclass(frozen=True)
class DataOptions:
    """What the user says of all clips.

    Attributes:
        labels: Speaker, manner and scene of clips whose caption, folder or JSONL line does not tell.
        transcribe: Fill missing captions with what Whisper hears, and cut long files between its words.
        audio_only: Leave the pictures out.
    """

    labels: Labels = field(default_factory=Labels)
    transcribe: bool = False
    audio_only: bool = False


@dataclass(frozen=True)
class Prepared:
    """The data, ready for the cache.

    Attributes:
        clips: Those without errors, in the order of their names.
        findings: Errors and warnings; see `findings.table` and `findings.refuse_errors`.
        statistics: Counts and seconds over `clips`, as JSON takes them.
    """

    clips: tuple[TrainingClip, ...]
    findings: tuple[Finding, ...]
    statistics: dict[str, Any]


def prepare(
    data: Path,
    geometry: Geometry,
    options: DataOptions = DataOptions(),
    folder: Path | None = None,
    transcriber: Transcriber | None = None,
    progress: OnProgress = lambda *_: None,
    known: Known | None = None,
) -> Prepared:
    """Finds the clips of the data and checks them.

    Args:
        data: A folder or JSONL; see `mlx_ltxw.train.data.dataset`.
        geometry: What every clip is conformed to.
        options: What the user says of all clips.
        folder: Where transcripts are kept, so that nothing is transcribed twice; None keeps none.
        transcriber: In Whisper's place.
        progress: See `OnProgress`.
        known: Keeps what is found out about each file, for the next time.

    Raises:
        UserError: there is no data at all, or transcribing lacks its package.
    """
    geometry.check()
    known = known or Known()
    hears: Transcriber | None = None
    if options.transcribe:
        hears = transcriber or whisper()
        hears = hears if folder is None else Remembered(hears, folder / "transcripts.json")
    sources, findings = find_sources(data, options.labels)
    clips: list[TrainingClip] = []
    find = partial(_noted_clips_of, geometry=geometry, audio_only=options.audio_only, hears=hears)
    all_found = map(find, sources) if hears else _known_clips_of(sources, find, geometry, options.audio_only, known)
    for index, (source, (made, found)) in enumerate(zip(sources, all_found, strict=True)):
        clips += made
        findings += found
        if made and source.text:
            findings += [warning(source.name, "caption", text) for text in slips(parse(source.text))]
        progress("find", index + 1, len(sources))
    checked = check(clips, lambda done: progress("check", done, len(clips)), known)
    findings += checked.findings
    if not sources and not findings:
        findings.append(error("", "no-clips", f"There are no sound or video files in {data}; give another folder."))
    elif not checked.clips:
        findings.append(error("", "no-clips", "No clip is left to train on; mend the others."))
    return Prepared(checked.clips, tuple(findings), checked.statistics)


@dataclass(frozen=True)
class _Stretch:
    """A clip without what its source and the run tell of it."""

    name: str
    caption: str
    window: float
    start: float
    end: float
    picture: bool


@dataclass(frozen=True)
class _Found:
    """What `clips_of` found, as `Known` keeps it."""

    clips: tuple[_Stretch, ...]
    findings: tuple[Finding, ...]


_Clips = tuple[list[TrainingClip], list[Finding]]


def _known_clips_of(
    sources: Sequence[MediaSource],
    find: Callable[[MediaSource], _Clips],
    geometry: Geometry,
    audio_only: bool,
    known: Known,
) -> Iterator[_Clips]:
    """As `_noted_clips_of` of each source without transcribing, from what is known of an unchanged file."""
    keys = [_key(source, geometry, audio_only) for source in sources]
    there = [None if key is None else known.get(key, _Found) for key in keys]
    new = each(find, [source for source, found in zip(sources, there, strict=True) if found is None])
    for source, key, found in zip(sources, keys, there, strict=True):
        if found is not None:
            voice = source.labels.voice
            clips = [TrainingClip(source.path, geometry=geometry, voice=voice, **asdict(one)) for one in found.clips]
            yield clips, list(found.findings)
            continue
        clips, findings = next(new)
        # what is broken may be mended by permissions alone
        if key is not None and all(finding.code != "broken" for finding in findings):
            stretches = [{f.name: getattr(clip, f.name) for f in fields(_Stretch)} for clip in clips]
            known.put(key, {"clips": stretches, "findings": [asdict(finding) for finding in findings]})
        yield clips, findings


def _key(source: MediaSource, geometry: Geometry, audio_only: bool) -> str | None:
    try:
        return key_of(source.path, "clips", source, geometry, audio_only)
    except UserError:
        return None


def _noted_clips_of(source: MediaSource, geometry: Geometry, audio_only: bool, hears: Transcriber | None) -> _Clips:
    """As `clips_of`, and what reading the file said about it."""
    with collected_notes() as notes:
        made, faults = clips_of(source, geometry, audio_only, hears)
    return made, faults + [warning(source.name, "media", f"The file {note}") for note in notes]


def clips_of(
    source: MediaSource, geometry: Geometry, audio_only: bool = False, hears: Transcriber | None = None
) -> tuple[list[TrainingClip], list[Finding]]:
    """The clips of one file, and why there are none or fewer.

    A file that is no longer than a clip is one clip, with silence after it where it is shorter. A longer one is cut if
    its words can be shared out: their times are known, or Whisper hears them. Without, it is one clip if all of its
    speech fits into one.
    """
    try:
        file = examine(source.path, source.start, source.end, picture=not audio_only)
        if not file.info.channels:
            return [], [error(source.name, "no-sound", "The clip has no sound; give one with a voice.")]
        if not file.info.rate:
            return [], [error(source.name, "broken", f"The header of its sound is damaged. {DAMAGED}")]
        picture, length = file.info.width is not None and not audio_only, file.length
        if picture and length < (geometry.frames - held_frames(geometry)) / geometry.frame_rate:
            text = f"The picture lasts {length:.2f} s, a clip {geometry.seconds:.2f} s; use a longer one."
            return [], [error(source.name, "too-short", text)]
        if isinstance(file.levels, UserError):
            raise file.levels
        captioned = _tell(source, file.levels, geometry.seconds, hears)
    except UserError as problem:
        return [], [error(source.name, "broken", str(problem))]
    except CaptionFault as fault:
        return [], [error(source.name, "caption", str(fault))]
    except _Refused as refused:
        return [], [refused.finding]
    whole = len(captioned) == 1 and math.isinf(source.end) and not source.start
    clips, findings = [], []
    for segment, caption in captioned:
        name = source.name if whole else f"{source.name} {segment.start:.2f}-{segment.end:.2f} s"
        if len(captioned) > 1 and segment.speech < LEAST_SPEECH:
            text = f"{segment.speech:.1f} s of speech are left over and become no clip."
            findings.append(warning(name, "left-over", text))
            continue
        window = max(0.0, min(segment.start, length - geometry.seconds)) if picture else segment.start
        voice = source.labels.voice
        clips.append(
            TrainingClip(source.path, name, caption, geometry, window, segment.start, segment.end, picture, voice)
        )
    return clips, findings


class _Refused(Exception):
    """A file that becomes no clip."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.finding = finding


def _tell(source: MediaSource, levels: Levels, window: float, hears: Transcriber | None) -> list[tuple[Segment, str]]:
    """Segments of the file with their captions.

    Raises:
        _Refused, CaptionFault: there is no caption, or none for its segments.
    """
    end = _end(source, levels)
    given = complete(source.text, source.labels) if source.text and source.text.strip() else None
    if end - source.start <= window + _SLACK:
        segments = [Segment(source.start, end, source.words)]
    else:
        units = source.words or sounds(levels.rms, window - LEAD, source.start)
        # without any speech it is one clip still, for the check to refuse
        segments = cut(units, window, source.start, end) or [Segment(source.start, source.start + window, ())]
    if given is not None and len(segments) == 1:
        return [(segments[0], given)]
    if source.words:
        texts = [segment.text for segment in segments]
    elif hears is not None:
        segments, texts = _transcribed(segments, source, end, window, hears)
    else:
        raise _Refused(_no_words(source, end, given))
    return [(segment, _caption(text, given, source)) for segment, text in zip(segments, texts, strict=True)]


def _end(source: MediaSource, levels: Levels) -> float:
    """Where the stretch ends: as the user said, if the file is as long."""
    there = source.start + levels.seconds
    return source.end if there > source.end - 1e-3 else there


def _transcribed(
    segments: list[Segment], source: MediaSource, end: float, window: float, hears: Transcriber
) -> tuple[list[Segment], list[str]]:
    """The segments, cut between words if Whisper times them, and what is said in each."""
    mono = read_mono(source.path, source.start, source.end)  # Whisper takes the file as a whole
    transcript = hears(mono)
    if len(segments) == 1:
        return segments, [transcript.text]
    if transcript.words:
        segments = cut(shifted(transcript.words, source.start), window, source.start, end)
        return segments, [segment.text for segment in segments]
    spans = [
        (round((segment.start - source.start) * RATE), round((segment.end - source.start) * RATE))
        for segment in segments
    ]
    return segments, [hears(mono[first:last]).text for first, last in spans]


def _caption(text: str, given: str | None, source: MediaSource) -> str:
    line = spoken(text)
    if not line:
        raise _Refused(error(source.name, "no-words", "No words were understood; write the caption yourself."))
    return compose(line, source.labels) if given is None else retell(given, line)


def _no_words(source: MediaSource, end: float, given: str | None) -> Finding:
    if given is None:
        text = "The clip has no caption; write one beside it (the same name with .txt), or add {field:transcribe=True}."
        return error(source.name, "no-caption", text)
    text = (
        f"The speech of these {end - source.start:.1f} s is longer than a clip, and when each word is said is not "
        "known; add {field:transcribe=True}, cut the file, or train longer clips ({field:frames})."
    )
    return error(source.name, "too-long", text)
