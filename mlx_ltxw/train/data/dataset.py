"""The user's data: a folder of media files with `.txt` captions beside them, or a JSONL.

A folder is searched with all it holds. A caption has its clip's name and the ending `.txt`, and is either whole,
`a dim room, (woman, whispering): "close your eyes"`, or only what is said; then the folders' names (`woman-whispering`,
`anna/man_soft`) or the flags tell speaker and manner.

A JSONL has one clip a line:

| field | |
|---|---|
| `file` | the media file, absolute or from the JSONL's folder; the only field that must be there |
| `caption` | whole, or only what is said |
| `speaker`, `manner`, `scene` | what a caption that is not whole lacks; `manner` is a register or words of your own |
| `voice` | whose voice it is, for counting voices |
| `start`, `end` | seconds of the file |
| `words` | `[{"word": "close", "start": 0.1, "end": 0.4}, ...]`, seconds of the file; long files are cut between them |
"""

from __future__ import annotations

import json
import math
import mimetypes
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text, write_bytes
from mlx_ltxw.media.containers import probe
from mlx_ltxw.parsing import Unsound, load_json, sound
from mlx_ltxw.printing import printable
from mlx_ltxw.train.data.captions import Labels, from_folders
from mlx_ltxw.train.data.clip import TrainingClip
from mlx_ltxw.train.data.cutting import Word
from mlx_ltxw.train.data.findings import Finding, error, warning

LARGEST_CAPTION = 1 << 20
"""Bytes of a caption's file."""

FIELDS = ("file", "caption", "speaker", "manner", "scene", "voice", "start", "end", "words")

_BESIDE = {".txt", ".json", ".jsonl", ".md", ".yaml", ".yml", ".csv", ".srt", ".vtt", ".ass", ".lrc", ".log", ".html",
           ".safetensors", ".npz", ".zip", ".gz", ".tar", ".pdf", ".part", ".tmp"}  # fmt: skip
_MEDIA = {".mkv", ".webm", ".m4v", ".mov", ".opus", ".flac", ".m4a", ".aac", ".ts", ".mts", ".m2ts", ".wma", ".wmv",
          ".flv", ".caf", ".aiff", ".oga", ".ogg", ".mka"}  # fmt: skip


@dataclass(frozen=True)
class MediaSource:
    """A media file, or a stretch of one, as the user gave it.

    Attributes:
        path: The file.
        name: Its path within the data.
        text: Its caption, or what is said; None without one.
        labels: What else is known of it.
        start, end: Seconds of the file; `end` is infinite for all of it.
        words: With their times in the file, where these are given.
    """

    path: Path
    name: str
    text: str | None
    labels: Labels
    start: float = 0.0
    end: float = math.inf
    words: tuple[Word, ...] = ()


def find_sources(data: Path, labels: Labels = Labels()) -> tuple[list[MediaSource], list[Finding]]:  # noqa: B008
    """Finds the clips; opens no media file that its name does not tell from others.

    Args:
        data: A folder or a JSONL.
        labels: Of clips that neither caption, JSONL nor folder tells more of.

    Raises:
        UserError: there is no such folder or file, or it cannot be read.
    """
    if data.is_dir():
        return _from_folder(data, labels)
    if not data.is_file():
        raise UserError(f"There is no data at {data}.", "Give a folder of clips with captions, or a JSONL.")
    if data.suffix.lower() != ".jsonl":
        raise UserError(f"{data} is neither a folder nor a JSONL.", "Give the folder that it lies in.")
    return _from_lines(data, read_text(data).split("\n"), labels)


def write_listing(path: Path, clips: Sequence[TrainingClip]) -> None:
    """Writes clips as a JSONL, to be looked through, mended, and given as data: it gives the same clips again.

    Raises:
        UserError: `path` cannot be written.
    """
    lines = []
    for clip in clips:
        fields = {"file": str(clip.path.resolve()), "caption": clip.caption, "voice": clip.voice}
        times = {"start": clip.start, "end": clip.end}
        kept = {name: value for name, value in {**fields, **times}.items() if value is not None}
        lines.append(json.dumps(kept, ensure_ascii=False) + "\n")
    write_bytes(path, "".join(lines).encode("utf-8"))


def _from_folder(folder: Path, labels: Labels) -> tuple[list[MediaSource], list[Finding]]:
    sources: list[MediaSource] = []
    used: set[Path] = set()
    files, findings = _files(folder)
    for path in files:
        name = _name(path, folder)
        if not _is_text(path.as_posix()):
            findings.append(error(name, "broken", "The file's name is not valid text; rename it."))
        elif not path.is_file():
            if not _known_ending(path):
                continue
            what = "pipe or device" if path.exists() else "link that leads nowhere"
            findings.append(error(name, "broken", f"This is a {what}; put the file in its place, or remove it."))
        elif _is_media(path):
            own = from_folders(path.relative_to(folder).parts[:-1]).over(_without_voice(from_folders([folder.name])))
            caption = path.with_suffix(".txt")
            used.add(caption)
            text, fault = _read_caption(caption, name)
            findings += fault
            if not fault:
                sources.append(MediaSource(path, name, text, own.over(labels)))
    for path in files:
        if path.suffix.lower() == ".txt" and path not in used:
            findings.append(
                warning(_name(path, folder), "caption-alone", "There is no media file of this caption's name.")
            )
    return sources, findings


def _files(folder: Path) -> tuple[list[Path], list[Finding]]:
    """What lies in a folder and all those in it, linked ones too, each once."""
    found: list[Path] = []
    findings: list[Finding] = []
    seen = {folder.resolve()}

    def refused(problem: OSError) -> None:
        if Path(problem.filename) == folder:
            raise UserError(f"{folder} cannot be read ({problem}).", "Give a folder that you may read.") from problem
        text = f"The folder cannot be read ({problem.strerror}); give yourself the right, or move it away."
        findings.append(error(_name(Path(problem.filename), folder), "broken", text))

    for top, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        kept = []
        for name in sorted(folders):
            path = Path(top, name)
            if name.startswith("."):
                continue
            if (real := path.resolve()) in seen:
                text = "The folder is a link to one that is read already; it is left out."
                findings.append(warning(_name(path, folder), "linked-twice", text))
            else:
                kept.append(name)
                seen.add(real)
        folders[:] = kept
        found += [Path(top, name) for name in names if not name.startswith(".")]
    return sorted(found), findings


def _name(path: Path, folder: Path) -> str:
    return printable(path.relative_to(folder).as_posix())


def _read_caption(path: Path, name: str) -> tuple[str | None, list[Finding]]:
    if not path.exists() and not path.is_symlink():
        return None, []
    try:
        return read_text(path, LARGEST_CAPTION), []
    except UserError as problem:
        return None, [error(name, "caption", f"The caption cannot be read: {problem}")]


def _known_ending(path: Path) -> bool:
    """Whether the name alone tells a file with sound."""
    kind = (mimetypes.guess_type(path.name)[0] or "").partition("/")[0]
    return path.suffix.lower() in _MEDIA or kind in ("audio", "video")


def _is_media(path: Path) -> bool:
    """By its name where that says enough, else by opening it."""
    ending = path.suffix.lower()
    kind = (mimetypes.guess_type(path.name)[0] or "").partition("/")[0]
    if _known_ending(path):
        return True
    if ending in _BESIDE or kind in ("image", "text", "font", "model") or not path.stat().st_size:
        return False
    try:
        info = probe(path)
    except UserError:
        return False
    return info.channels is not None


def _without_voice(labels: Labels) -> Labels:
    return Labels(labels.speaker, labels.manner)


def _from_lines(listing: Path, lines: Iterable[str], labels: Labels) -> tuple[list[MediaSource], list[Finding]]:
    sources, findings = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            sources.append(_from_fields(listing.parent, sound(load_json(line)), labels))
        except _LineFault as problem:
            findings.append(error(f"{listing.name}:{number}", "listing", str(problem)))
        except Unsound as problem:
            findings.append(error(f"{listing.name}:{number}", "listing", f"The line is no JSON: {problem}."))
    return sources, findings


class _LineFault(Exception):
    """A line of a JSONL that is no clip."""


def _from_fields(folder: Path, fields: Any, labels: Labels) -> MediaSource:
    if not isinstance(fields, dict):
        raise _LineFault("The line is no JSON object; write one with `file` and `caption`.")
    if unknown := sorted(printable(name) for name in set(fields) - set(FIELDS)):
        raise _LineFault(f"There is no field {', '.join(unknown)}; known: {', '.join(FIELDS)}.")
    text = {name: _text(fields, name) for name in FIELDS[:6]}
    if not text["file"]:
        raise _LineFault("The line names no file; add the field `file`.")
    start, end = _seconds(fields, "start", 0.0), _seconds(fields, "end", math.inf)
    if start >= end:
        raise _LineFault(f"The clip ends at {end:g} s, before it begins at {start:g} s; mend `start` or `end`.")
    own = Labels(text["speaker"], text["manner"], text["scene"], text["voice"])
    path = Path(text["file"])
    return MediaSource(
        path if path.is_absolute() else folder / path,
        text["file"],
        text["caption"],
        own.over(_from_path(path)).over(labels),
        start,
        end,
        tuple(_words(fields.get("words"))),
    )


def _from_path(path: Path) -> Labels:
    """What the folders of a relative path tell; those of an absolute one are no part of the data."""
    return Labels() if path.is_absolute() else from_folders(path.parts[:-1])


def _text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value:
        raise _LineFault(f"The field `{name}` is no text.")
    return value


def _seconds(fields: dict[str, Any], name: str, default: float) -> float:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e7:
        raise _LineFault(f"The field `{name}` is {printable(value)[:40]}; give seconds.")
    return float(value)


def _words(value: Any) -> Iterator[Word]:
    if value is None:
        return
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _LineFault("The field `words` is no list of objects with `word`, `start` and `end`.")
    for item in value:
        text = _text(item, "word")
        start, end = _seconds(item, "start", math.nan), _seconds(item, "end", math.nan)
        if not text or not start < end:
            raise _LineFault("A word of `words` lacks `word`, `start` or `end`, or ends before it starts.")
        yield Word(" " + text.strip(), start, end)


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
