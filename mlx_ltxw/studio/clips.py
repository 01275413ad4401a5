"""Clips to train on, as a page shows them: what the data check finds, where files are cut, captions to be edited.

Runs in the helper's process: it reads models' configurations and listens to files, a few seconds at a time.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError, spelled
from mlx_ltxw.files import read_text, write_text
from mlx_ltxw.media.containers import collected_notes, probe
from mlx_ltxw.parsing import build
from mlx_ltxw.paths import local_path
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.plan import latent_grid
from mlx_ltxw.prompts.registers import parse, slips
from mlx_ltxw.studio import texts_train as texts
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.train.config import read_config
from mlx_ltxw.train.data.captions import CaptionFault, Labels, complete
from mlx_ltxw.train.data.clip import TrainingClip
from mlx_ltxw.train.data.dataset import LARGEST_CAPTION, MediaSource, find_sources
from mlx_ltxw.train.data.findings import Finding
from mlx_ltxw.train.data.known import Known
from mlx_ltxw.train.data.prepare import DataOptions, prepare

AT_ONCE = 2.0
"""Seconds of work before the page hears how far it is."""

KNOWN = "checks.jsonl"


@dataclass(frozen=True)
class ClipQuestion:
    """What the page asks about a folder.

    Attributes:
        data: A folder of clips, or a JSONL.
        model: The base; None for the built-in one.
        settings: Training options, `key=value`; the sizes among them say how long a clip is.
        speaker, manner, scene: Of clips that do not tell.
        audio_only: Whether pictures are left out.
    """

    data: str
    model: str | None = None
    settings: tuple[str, ...] = ()
    speaker: str | None = None
    manner: str | None = None
    scene: str | None = None
    audio_only: bool = False

    @property
    def labels(self) -> Labels:
        return Labels(self.speaker or None, self.manner or None, self.scene or None)


def check_clips(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """The data check of a folder as rows of a table, a file each.

    It stops after `AT_ONCE` seconds and says how far it is, `{"stage", "done", "total"}`; asked again, it goes on.

    Raises:
        UserError: there is no such folder, or an option will not do.
    """
    asked = build(ClipQuestion, values, "The question")
    data = _folder(asked.data)
    model = open_model(asked.model)
    config = read_config(settings=asked.settings).with_sizes(model.generation)
    geometry = Geometry(*config.sizes, latent_grid(model))
    until = time.monotonic() + AT_ONCE

    def progress(stage: str, done: int, total: int) -> None:
        if time.monotonic() > until and (stage, done) != ("check", total):
            raise _Enough({"stage": stage, "done": done, "total": total})

    options = DataOptions(asked.labels, audio_only=asked.audio_only)
    try:
        prepared = prepare(data, geometry, options, progress=progress, known=Known(folder.cache / KNOWN))
    except _Enough as enough:
        return enough.how_far
    sources, _ = find_sources(data, asked.labels)
    rows = _rows(data, sources, prepared.clips, prepared.findings)
    named = {row["name"] for row in rows}
    return {
        "rows": rows,
        "about": [_told(one) for one in prepared.findings if _source_of(one.file, named) is None],
        "statistics": prepared.statistics,
        "seconds": geometry.seconds,
    }


class _Enough(Exception):
    """It took long enough for one answer."""

    def __init__(self, how_far: dict[str, Any]) -> None:
        super().__init__()
        self.how_far = how_far


def _rows(
    data: Path, sources: Sequence[MediaSource], clips: Sequence[TrainingClip], findings: Sequence[Finding]
) -> list[dict[str, Any]]:
    names = {source.name for source in sources}
    told: dict[str | None, list[Finding]] = defaultdict(list)
    for finding in findings:
        told[_source_of(finding.file, names)].append(finding)
    cut: dict[Path, list[TrainingClip]] = defaultdict(list)
    for clip in clips:
        cut[clip.path].append(clip)
    return [
        {
            "name": source.name,
            "path": str(source.path),
            "caption": source.text,
            "findings": [_told(one) for one in told[source.name]],
            "clips": [{"start": c.start, "end": c.end, "caption": c.caption} for c in cut[source.path]],
            **_about_file(source.path, data),
        }
        for source in sources
    ]


def _about_file(path: Path, data: Path) -> dict[str, Any]:
    """Its length, whether it has a picture, whether its caption may be edited, and whether the page may play it.

    What is no sound or video, and what a link in the folder leads out of it to, is not served.
    """
    inside = is_inside(path, data)
    try:
        with collected_notes():
            info = probe(path)
    except UserError:
        return {"seconds": None, "picture": False, "editable": data.is_dir() and inside, "playable": False}
    return {
        "seconds": info.duration,
        "picture": info.width is not None,
        "editable": data.is_dir() and inside,
        "playable": info.channels is not None and (inside or not data.is_dir()),
    }


def _source_of(name: str, names: set[str]) -> str | None:
    """The file that a finding is about: clips of a longer file have seconds behind its name."""
    if name in names:
        return name
    stem, _, unit = name.rpartition(" ")
    stem = stem.rpartition(" ")[0] if unit == "s" else ""
    return stem if stem in names else None


def _told(finding: Finding) -> dict[str, str]:
    return {"severity": finding.severity, "file": finding.file, "text": spelled(finding.text, texts.spelling)}


def save_caption(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """Writes a clip's caption to the `.txt` beside it, as the training run would read it.

    Args:
        values: `data`, the chosen folder; `name`, of a clip in it as `check_clips` names it; `text`; `seen`, what the
            page last read in the file, None for no file; and `speaker`, `manner`, `scene` of clips that do not tell.
        folder: The studio's.

    Returns:
        `text`, what was written; `stands_for`, the whole caption; `slips`, what is off in it all the same.

    Raises:
        UserError: the text is no caption; the file has changed since; there is no such clip in that folder; or the file
            cannot be written.
    """
    asked = build(_CaptionEdit, values, "The caption")
    source = _editable(asked.data, asked.name, Labels(asked.speaker, asked.manner, asked.scene))
    file = source.path.with_suffix(".txt")
    now = read_text(file, LARGEST_CAPTION) if file.exists() else None
    if now != asked.seen:
        raise UserError(f"{file.name} was changed by another program meanwhile.", "Look at the folder again.")
    try:
        stands_for = complete(asked.text, source.labels)
    except CaptionFault as fault:
        raise UserError(spelled(str(fault), texts.spelling), texts.NOT_SAVED) from fault
    text = " ".join(asked.text.split()) + "\n"
    write_text(file, text)
    return {"text": text, "stands_for": stands_for, "slips": slips(parse(text))}


def read_caption(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """What stands in the caption's file of a clip now: `text`, None for no file. `data` and `name` as for the other.

    Raises:
        UserError: there is no such clip in that folder.
    """
    source = _editable(str(values["data"]), str(values["name"]), Labels())
    file = source.path.with_suffix(".txt")
    return {"text": read_text(file, LARGEST_CAPTION) if file.exists() else None}


def _editable(data: str, name: str, labels: Labels) -> MediaSource:
    """A clip whose caption may be edited."""
    folder = _folder(data)
    sources, _ = find_sources(folder, labels)
    found = [source for source in sources if source.name == name]
    if not folder.is_dir() or len(found) != 1 or not is_inside(found[0].path, folder):
        raise UserError(f"There is no clip {name} in {folder} whose caption can be edited.", "Look again.")
    file = found[0].path.with_suffix(".txt")
    if file.is_symlink() or not is_inside(file, folder):
        raise UserError(f"{file.name} is a link; the studio writes into the chosen folder alone.", "Edit it by hand.")
    return found[0]


@dataclass(frozen=True)
class _CaptionEdit:
    data: str
    name: str
    text: str
    seen: str | None
    speaker: str | None = None
    manner: str | None = None
    scene: str | None = None


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder, links followed."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a link to itself
        return False


def folders_below(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """Folders whose path begins with `values["text"]`, at most 20, to complete what is typed."""
    text = str(values["text"]) or "~/"
    start = os.path.basename(text)
    parent = local_path(os.path.dirname(text) or ".")
    try:
        found = sorted(one for one in parent.iterdir() if one.name.startswith(start) and one.is_dir())
    except OSError:
        found = []
    shown = [one for one in found if start.startswith(".") or not one.name.startswith(".")]
    return {"folders": [str(one) for one in shown[:20]]}


def _folder(text: str) -> Path:
    path = local_path(text.strip())
    if not path.is_absolute():
        raise UserError(f"'{text.strip()}' is no whole path.", "Write it from the start: /home/… or ~/….")
    return path
