"""What is said in a clip, by mlx-whisper (the extra `asr`)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text, write_errors, write_text
from mlx_ltxw.parsing import parse_json
from mlx_ltxw.train.data.cutting import Word

WHISPER = "mlx-community/whisper-large-v3-turbo"


@dataclass(frozen=True)
class Transcript:
    """What was heard.

    Attributes:
        text: All that was said, in one line.
        words: With their times, counted from the beginning of the samples; empty where they are not known.
    """

    text: str
    words: tuple[Word, ...] = ()


Transcriber = Callable[[np.ndarray], Transcript]
"""(N,) fp32 mono at 16 kHz -> what is said in it."""


def whisper(model: str = WHISPER) -> Transcriber:
    """Whisper in MLX; the model is loaded with the first clip.

    Raises:
        UserError: mlx-whisper is not installed.
    """
    try:
        import mlx_whisper
    except ImportError as error:
        raise UserError(
            "{field:transcribe} needs mlx-whisper, which is not installed.",
            "Install it with `pip install 'mlx-ltxw[asr]'`, or write the captions yourself.",
        ) from error

    def listen(mono: np.ndarray) -> Transcript:
        result = mlx_whisper.transcribe(mono, path_or_hf_repo=model, word_timestamps=True)
        return from_whisper(result)

    return listen


def from_whisper(result: Mapping[str, Any]) -> Transcript:
    """Whisper's own result: `text`, and `segments` with `words` of `word`, `start`, `end`."""
    words = [word for segment in result.get("segments", ()) for word in segment.get("words", ())]
    timed = tuple(Word(str(w["word"]), float(w["start"]), float(w["end"])) for w in words)
    return Transcript(str(result.get("text", "")).strip(), timed)


class Remembered:
    """A transcriber that hears nothing twice: its transcripts are kept in a JSON file.

    Args:
        transcriber: Hears what is new.
        path: The JSON file; written anew with each transcript, whole or not at all.

    Raises:
        UserError: the file is there and cannot be read.
    """

    def __init__(self, transcriber: Transcriber, path: Path) -> None:
        self._transcriber, self._path = transcriber, path
        self._known: dict[str, Any] = _read(path)

    def __call__(self, mono: np.ndarray) -> Transcript:
        key = hashlib.sha256(mono.tobytes()).hexdigest()
        if key not in self._known:
            new = self._transcriber(mono)
            self._known[key] = {"text": new.text, "words": [[w.text, w.start, w.end] for w in new.words]}
            with write_errors(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(self._known, indent=1) + "\n")
        kept = self._known[key]
        return Transcript(kept["text"], tuple(Word(*word) for word in kept["words"]))


def shifted(words: tuple[Word, ...], by: float) -> tuple[Word, ...]:
    """The words with their times moved, without those that have none."""
    real = [word for word in words if math.isfinite(word.start) and word.start < word.end]
    return tuple(Word(word.text, word.start + by, word.end + by) for word in real)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    hint = "Delete it; its clips are transcribed again."
    known = parse_json(read_text(path), str(path), hint)
    try:
        for value in known.values():
            Transcript(value["text"], tuple(Word(*word) for word in value["words"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}).", hint) from error
    return known
