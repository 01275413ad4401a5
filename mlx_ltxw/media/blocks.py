"""The sound of a file block by block: an hour takes no more memory than a minute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import LAYOUTS
from mlx_ltxw.media.containers import DAMAGED, audio_stream, opened, start_of, video_stream

BLOCK = 5.0  # seconds

_RATES = range(1000, 768001)  # Hz; what lies outside was not recorded but misread
_GAP = 0.05  # seconds between two frames' clocks that rounding does not explain
_LONGEST_GAP = 3600.0  # seconds


def slices(wave: np.ndarray, rate: int) -> Iterator[np.ndarray]:
    """(N, C) in blocks."""
    size = max(1, round(BLOCK * rate))
    for at in range(0, len(wave), size):
        yield wave[at : at + size]


@contextmanager
def opened_sound(path: Path | str) -> Iterator[tuple[int, int, Iterator[np.ndarray]]]:
    """The rate, the channels (1 or 2) and the blocks (N, C) fp32 of a file's sound, decoded as they are taken.

    The sound is in step with the picture when there is one, and gaps in it are silence.

    Raises:
        UserError: no sound in it, or damaged; an mp4 also when it ends before its header says.
    """
    with opened(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise UserError(f"{path} has no sound that can be decoded.", "Give a file with an audio track.")
        rate, channels = int(stream.rate), min(stream.channels, 2)
        if rate not in _RATES:
            raise UserError(f"{path} is damaged: its sound claims {rate} samples a second.", DAMAGED)
        yield rate, channels, _gathered(_in_step(path, container, stream), round(BLOCK * rate))


def _gathered(pieces: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Pieces joined to blocks of at least `size` samples."""
    held: list[np.ndarray] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        if count >= size:
            yield np.concatenate(held)
            held, count = [], 0
    if count:
        yield np.concatenate(held)


def _in_step(path: Path | str, container: Any, stream: Any) -> Iterator[np.ndarray]:
    """The pieces from second 0 on, which is the picture's first frame or else the sound's first sample."""
    rate, channels = int(stream.rate), min(stream.channels, 2)
    origin = float(start_of(video_stream(container) or stream))
    at = cut = 0  # samples since second 0, where the next piece begins; samples to leave out
    begin: float | None = None
    end: float = np.inf
    for clock, piece in _decoded(container, stream):
        if begin is None:
            begin = origin if clock is None else clock
            end = _declared_end(container, stream, begin, rate, origin)
            at = min(0, round((begin - origin) * rate))
        gap = 0.0 if clock is None else clock - origin - at / rate
        if gap > _LONGEST_GAP:
            raise UserError(f"{path} is damaged: its sound is silent for {gap:.0f} s.", DAMAGED)
        if gap > _GAP or (at == 0 and gap > 0):
            yield np.zeros((round(gap * rate), channels), np.float32)
            at += round(gap * rate)
        cut = max(0, -at)
        kept = piece[: int(min(len(piece), max(0, end - at)))]
        at += len(piece)
        yield kept[cut:]
    if np.isfinite(end) and at < end - 0.1 * rate:
        have, want = at / rate, end / rate
        raise UserError(f"{path} is damaged: its sound ends after {have:.2f} of {want:.2f} seconds.", DAMAGED)


def _declared_end(container: Any, stream: Any, begin: float, rate: int, origin: float) -> float:
    """Samples after second 0 at which an mp4 says that its sound ends, before the encoder's padding; else infinite."""
    if stream.duration is None or "mp4" not in container.format.name.split(","):
        return np.inf  # other headers estimate, or FFmpeg corrects them by the file's size
    return max(0, round((float(start_of(stream) + stream.duration * stream.time_base) - origin) * rate))


def _decoded(container: Any, stream: Any) -> Iterator[tuple[float | None, np.ndarray]]:
    """Each frame's second on the container's clock, if it says so, and its samples (N, C) at the stream's rate.

    A damaged or joined file may change its format, its channels or its rate on the way.
    """
    import av

    channels = min(stream.channels, 2)
    source: tuple[str, str, int] | None = None
    resampler: Any = None

    def arrays(frame: Any) -> list[np.ndarray]:
        return [_in_channels(part.to_ndarray().T, channels) for part in resampler.resample(frame)]

    for frame in container.decode(stream):
        clock = None if frame.pts is None else float(frame.pts * frame.time_base)
        parts: list[np.ndarray] = []
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != source:
            parts = arrays(None) if resampler else []
            layout = LAYOUTS[min(len(frame.layout.channels), 2)]
            source, resampler = kind, av.AudioResampler(format="fltp", layout=layout, rate=int(stream.rate))
        frame.pts = None  # only the order counts for the resampler
        parts += arrays(frame)
        yield clock, np.concatenate(parts) if parts else np.zeros((0, channels), np.float32)
    if resampler and (rest := arrays(None)):
        yield None, np.concatenate(rest)


def _in_channels(wave: np.ndarray, channels: int) -> np.ndarray:
    """(N, 1 or 2) as (N, channels): mono at its own level on both sides, stereo as its mean."""
    if wave.shape[1] == channels:
        return wave
    return np.repeat(wave, 2, axis=1) if channels == 2 else wave.mean(axis=1, keepdims=True)
