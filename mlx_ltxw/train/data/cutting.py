"""Long files into clips: between words where their times are known, else in pauses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_ltxw.media.audio import audio_blocks
from mlx_ltxw.media.pitch import SILENCE_LEVEL, SPEECH_LEVEL, loudest

RATE = 16000
HOP = 0.010  # seconds
LEAD = 0.10  # seconds of quiet before the first word of a clip, where there are any
LEAST_SPEECH = 0.5  # seconds; what is left over with less becomes no clip

_PAUSE = 0.15  # seconds; a shorter gap is a consonant
_CLICK = 0.03  # seconds; shorter sounds are no speech
_BLOCK = 10.0  # seconds over which the level is compared, for recordings that get louder and softer
_FAINT = 0.01  # of the loudest speech of the file; no speech is fainter
_ENOUGH = 0.75  # of the window that a clip fills before the widest pause is looked for


@dataclass(frozen=True)
class Word:
    """What must not be cut: a word, or a stretch of sound without a pause.

    Attributes:
        text: With the space before it, as Whisper gives it; empty for sound.
        start, end: Seconds of the file.
    """

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Segment:
    """One clip of a long file.

    Attributes:
        start, end: Seconds of the file between which it is heard.
        words: What is said in it.
    """

    start: float
    end: float
    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        return "".join(word.text for word in self.words)

    @property
    def speech(self) -> float:
        """Seconds."""
        return sum(word.end - word.start for word in self.words)


@dataclass(frozen=True)
class Levels:
    """How loud a sound is in the course of time.

    Attributes:
        rms: (T,) of each 10 ms, without what is left over at the end.
        seconds: How long the sound is.
    """

    rms: np.ndarray
    seconds: float


def read_levels(path: Path, start: float = 0.0, end: float = math.inf) -> Levels:
    """Of a file's stretch; an hour takes no more memory than a minute.

    Raises:
        UserError: the file cannot be read.
    """
    return levels(_mono_blocks(path, start, end))


def levels(blocks: Iterable[np.ndarray]) -> Levels:
    """Of blocks (N,) at 16 kHz that follow one another."""
    size = round(HOP * RATE)
    rest, parts, samples = np.zeros(0, np.float32), [np.zeros(0)], 0
    for block in blocks:
        samples += len(block)
        joined = np.concatenate([rest, block])
        frames = joined[: len(joined) // size * size].reshape(-1, size)
        parts.append(np.sqrt((frames.astype(np.float64) ** 2).mean(axis=1)))
        rest = joined[len(frames) * size :]
    return Levels(np.concatenate(parts), samples / RATE)


def read_mono(path: Path, start: float = 0.0, end: float = math.inf) -> np.ndarray:
    """(N,) fp32 at 16 kHz.

    Raises:
        UserError: the file cannot be read.
    """
    return np.concatenate([np.zeros(0, np.float32), *_mono_blocks(path, start, end)])


def _mono_blocks(path: Path, start: float, end: float) -> Iterator[np.ndarray]:
    seconds = end - start if math.isfinite(end) else None
    return (block[:, 0] for block in audio_blocks(path, RATE, 1, start=start, seconds=seconds))


def sounds(level: np.ndarray, longest: float, start: float = 0.0) -> list[Word]:
    """The stretches of speech between pauses.

    Args:
        level: (T,) from `read_levels`.
        longest: Seconds; a longer stretch is parted where it is quietest.
        start: The second of the file at which `level` begins.
    """
    found: list[tuple[int, int]] = []
    for first, last in _runs(level > _threshold(level)):
        if found and first - found[-1][1] < _PAUSE / HOP:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    limit = max(1, int(longest / HOP))
    parts = [part for run in found if run[1] - run[0] >= _CLICK / HOP for part in _parted(level, *run, limit)]
    return [Word("", start + first * HOP, start + last * HOP) for first, last in parts]


def cut(words: Sequence[Word], window: float, start: float, end: float) -> list[Segment]:
    """Clips of at most `window` seconds that hold whole words, each word once.

    A clip ends in the widest pause of its last quarter. A word that is longer than a window is heard in no clip.

    Args:
        words: In order, from `sounds` or with known times.
        window: Seconds of a clip.
        start, end: Seconds of the file to stay between.
    """
    segments: list[Segment] = []
    run: list[Word] = []
    since = start
    for word in words:
        if not start <= word.start < word.end <= end:
            continue
        if word.end - word.start <= window - LEAD:
            run.append(word)
        else:
            segments += _cut_run(run, window, since, word.start)
            run, since = [], word.end
    return segments + _cut_run(run, window, since, end)


def _cut_run(words: Sequence[Word], window: float, start: float, end: float) -> list[Segment]:
    segments = []
    first = 0
    while first < len(words):
        last = _last_word(words, first, window - LEAD)
        before = (words[first - 1].end + words[first].start) / 2 if first else start
        after = (words[last].end + words[last + 1].start) / 2 if last + 1 < len(words) else end
        begin = max(before, words[first].start - LEAD)
        segments.append(Segment(begin, min(after, begin + window), tuple(words[first : last + 1])))
        first = last + 1
    return segments


def _last_word(words: Sequence[Word], first: int, room: float) -> int:
    begin = words[first].start
    fits = first
    while fits + 1 < len(words) and words[fits + 1].end - begin <= room:
        fits += 1
    if fits + 1 == len(words):
        return fits
    late = [i for i in range(first, fits + 1) if words[i].end - begin >= _ENOUGH * room] or [fits]
    return max(late, key=lambda i: (words[i + 1].start - words[i].end, i))


def _threshold(level: np.ndarray) -> np.ndarray:
    """The level over which a frame is speech, from its block's loudest speech."""
    size = round(_BLOCK / HOP)
    least = max(SILENCE_LEVEL, _FAINT * loudest(level))
    blocks = [level[at : at + size] for at in range(0, len(level), size)]
    return np.concatenate([np.full(len(b), max(least, SPEECH_LEVEL * loudest(b))) for b in blocks] or [np.zeros(0)])


def _runs(on: np.ndarray) -> list[tuple[int, int]]:
    """First and one past the last frame of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], on, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _parted(level: np.ndarray, first: int, last: int, limit: int) -> list[tuple[int, int]]:
    parts = []
    smooth = np.convolve(level, np.full(5, 0.2), "same")
    while last - first > limit:
        low = first + max(1, int(0.6 * limit))
        middle = low + int(smooth[low : first + limit].argmin()) if low < first + limit else first + limit
        parts.append((first, middle))
        first = middle
    return [*parts, (first, last)]
