"""From the user's data to clips: found, cut, transcribed, captioned and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.containers import probe
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.train.captions import CaptionFault, Labels, complete, retell
from mlx_ltxw.train.check import check
from mlx_ltxw.train.clip import Clip, held_frames, picture_seconds
from mlx_ltxw.train.cutting import LEAD, LEAST_SPEECH, RATE, Piece, cut, read_mono, sounds
from mlx_ltxw.train.dataset import Source, find_sources
from mlx_ltxw.train.findings import Finding, error, warning
from mlx_ltxw.train.transcribe import Remembered, Transcriber, Transcript, shifted, whisper

_SLACK = 0.05  # seconds that a file may be longer than a clip without being cut
_TRANSCRIPTS = "transcripts.json"

Listen = Callable[[np.ndarray], Transcript]
Progress = Callable[[str, int, int], object]
"""Gets the stage (`find`, `check`), what is done of it, and of how many."""


@dataclass(frozen=True)
class DataOptions:
    """What the user says of all clips.

    Attributes:
        labels: Speaker, manner and scene of clips whose caption, folder or JSONL line does not tell.
        transcribe: Fill missing captions with what Whisper hears, and cut long files between its words.
        audio_only: Leave the pictures out.
    """

    labels: Labels = Labels()
    transcribe: bool = False
    audio_only: bool = False


@dataclass(frozen=True)
class Prepared:
    """The data, ready for the cache.

    Attributes:
        clips: Those without errors, in the order of their names.
        findings: Errors and warnings; see `findings.table` and `findings.refuse_errors`.
        statistics: Of `clips`, as JSON takes them.
    """

    clips: tuple[Clip, ...]
    findings: tuple[Finding, ...]
    statistics: dict[str, Any]


def prepare(
    data: Path,
    geometry: Geometry,
    options: DataOptions = DataOptions(),  # noqa: B008
    folder: Path | None = None,
    transcriber: Transcriber | None = None,
    progress: Progress = lambda *_: None,
) -> Prepared:
    """Finds the clips of the data and checks them.

    Args:
        data: A folder or JSONL; see `mlx_ltxw.train.dataset`.
        geometry: What every clip is conformed to.
        options: What the user says of all clips.
        folder: Where transcripts are kept, so that nothing is transcribed twice; None keeps none.
        transcriber: In Whisper's place.
        progress: See `Progress`.

    Raises:
        UserError: there is no data at all, or `--transcribe` lacks its package.
    """
    geometry.check()
    hears = None
    if options.transcribe:
        hears = transcriber or whisper()
        if folder is not None:
            hears = _remembering(hears, folder / _TRANSCRIPTS)
    sources, findings = find_sources(data, options.labels)
    clips: list[Clip] = []
    for index, source in enumerate(sources):
        for made in clips_of(source, geometry, options.audio_only, hears):
            if isinstance(made, Clip):
                clips.append(made)
            else:
                findings.append(made)
        progress("find", index + 1, len(sources))
    found, statistics = check(clips, lambda done: progress("check", done, len(clips)))
    faulty = {finding.file for finding in found if finding.severity == "error"}
    kept = tuple(clip for clip in clips if clip.name not in faulty)
    if faulty:
        statistics = check_again(kept)
    if not sources and not findings:
        findings.append(error("", "no-clips", f"There are no sound or video files in {data}."))
    elif not kept:
        findings.append(error("", "no-clips", "No clip is left to train on."))
    return Prepared(kept, tuple(findings + found), statistics)
