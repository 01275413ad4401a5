"""The sound of any file in step with its picture, block by block: gaps are silence, seeks are checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.containers import (
    DAMAGED,
    SOUND,
    audio_stream,
    format_names,
    note,
    opened,
    restarts,
    seconds_of,
    start_of,
    video_stream,
)
from mlx_ltxw.media.decoding import decoded
from mlx_ltxw.media.downmix import downmix_matrix

LAYOUTS = {1: "mono", 2: "stereo"}

_RATES = range(1000, 768001)  # Hz; what lies outside was not recorded but misread
_GAP = 0.015  # seconds; codecs lose 20 ms or more at a time, and timestamps are rounded to less
_BACK = 0.1  # seconds; a clock that goes back by more was set anew, as where recordings were joined
_LONGEST = 3600.0  # seconds of silence in one go
_BLOCK = 5.0  # seconds
_LOUDEST = 2.0**20  # of full scale 1, also of whole numbers up to 2^15 in a float file; encoders fail far above it
_COUNTED = {"flac", "caf", "w64", "wv", "tta", "ape"}  # formats whose headers count the samples


@contextmanager
def opened_sound(
    path: Path | str, start: float = 0.0, seconds: float | None = None
) -> Iterator[tuple[int, int, Iterator[np.ndarray]]]:
    """A file's sound at its own rate: the rate, the number of channels (1 or 2), and blocks (N, channels) fp32.

    Second 0 is the picture's first frame, or without a picture the sound's first sample. The blocks, of some seconds,
    are decoded as they are taken. More than two channels are mixed down.

    Args:
        start: Seconds to leave out at the beginning.
        seconds: The most to give; all when None.

    Raises:
        UserError: no sound in it, or damaged, also by samples that are no numbers; an mp4 also when it ends before
            its header says.
    """
    with opened(path, SOUND) as container:
        yield sound_of(path, container, start, seconds)


def sound_of(
    path: Path | str, container: Any, start: float = 0.0, seconds: float | None = None
) -> tuple[int, int, Iterator[np.ndarray]]:
    """What `opened_sound` gives, of a container that is open and was not read yet."""
    stream = audio_stream(container)
    if stream is None:
        raise UserError(f"{path} has no sound that can be decoded.", "Give a file with an audio track.")
    rate, channels = int(stream.rate), min(stream.channels, 2)
    if rate not in _RATES:
        raise UserError(f"{path} is damaged: its sound claims {rate} samples a second.", DAMAGED)
    origin = float(start_of(video_stream(container) or stream))
    pieces = _in_step(path, container, stream, origin + start)
    most = math.inf if seconds is None else math.ceil(seconds * rate)
    return rate, channels, _of_numbers(path, _gathered(pieces, round(_BLOCK * rate), most))


def slices(wave: np.ndarray, rate: int) -> Iterator[np.ndarray]:
    """A waveform (N, C) in blocks as a file gives them."""
    size = max(1, round(_BLOCK * rate))
    for at in range(0, len(wave), size):
        yield wave[at : at + size]


def in_channels(wave: np.ndarray, channels: int) -> np.ndarray:
    """(N, 1 or 2) as (N, channels): mono at its own level on both sides, stereo as its mean."""
    if wave.shape[1] == channels:
        return wave
    return np.repeat(wave, 2, axis=1) if channels == 2 else wave.mean(axis=1, keepdims=True)


def _gathered(pieces: Iterable[np.ndarray], size: int, most: float) -> Iterator[np.ndarray]:
    """Pieces joined to blocks of at least `size` samples, `most` samples in all."""
    held: list[np.ndarray] = []
    count = given = 0
    for piece in pieces:
        held.append(piece[: int(min(len(piece), most - count))])
        count += len(held[-1])
        if count - given >= size:
            yield np.concatenate(held)
            held, given = [], count
        if count >= most:
            break
    if held:
        yield np.concatenate(held)


def _of_numbers(path: Path | str, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Blocks that are checked as they are taken: files of floating point may hold anything."""
    for block in blocks:
        if not (block.min(initial=0) > -_LOUDEST and block.max(initial=0) < _LOUDEST):  # false of NaN too
            raise UserError(
                f"{path} is damaged: its sound holds samples that are no numbers, or far beyond full scale.", DAMAGED
            )
        yield block


def _in_step(path: Path | str, container: Any, stream: Any, begin: float) -> Iterator[np.ndarray]:
    """The samples from second `begin` of the container's clock on, as they are decoded."""
    rate = int(stream.rate)
    channels = min(stream.channels, 2)
    promised = _declared_end(container, stream) - begin
    end = round(promised * rate) if math.isfinite(promised) else math.inf  # samples after `begin`, as is `at`
    at, shift = min(0, round((float(start_of(stream)) - begin) * rate)), 0
    for frame, piece in _pieces(decoded(path, container, stream, begin), channels, rate):
        if frame is not None and frame.pts is not None:
            due = round((seconds_of(frame.pts, frame.time_base) - begin) * rate) + shift
            if at <= 0:  # nothing of it is given yet: after a seek, the first times may be wrong
                at = min(due, 0)
                gap = due - at
            else:
                gap = due - at
                if gap < -_BACK * rate or restarts(container, gap / rate):
                    shift, gap = shift - gap, 0
                gap = gap if gap > _GAP * rate else 0
            if gap > _LONGEST * rate:
                raise UserError(f"{path} is damaged: its sound pauses for {gap / rate:.0f} s.", DAMAGED)
            for part in _silence(gap, channels):
                yield part[max(0, -at) :]
                at += len(part)
        piece = piece[: int(max(0, min(len(piece), end - at)))]
        yield piece[max(0, -at) :]
        at += len(piece)
    _check_end(path, container, at, end, rate)


def _silence(samples: int, channels: int) -> Iterator[np.ndarray]:
    for at in range(0, samples, 1 << 20):
        yield np.zeros((min(1 << 20, samples - at), channels), np.float32)


def _declared_end(container: Any, stream: Any) -> float:
    """The second at which an mp4 says that its sound ends, before the encoder's padding; else infinite."""
    if stream.duration is None or "mp4" not in format_names(container):
        return math.inf  # other headers estimate, or FFmpeg corrects them by the file's size
    return float(start_of(stream) + stream.duration * stream.time_base)


def _check_end(path: Path | str, container: Any, have: int, promised: float, rate: int) -> None:
    if have < promised - 0.1 * rate and math.isfinite(promised):
        text = f"{path} is damaged: its sound ends {(promised - have) / rate:.2f} s before it should."
        raise UserError(text, DAMAGED)
    if format_names(container) & _COUNTED and container.duration:
        missing = container.duration / 1e6 - have / rate
        if missing > 0.5:
            note(
                path, f"is cut off: of {container.duration / 1e6:.1f} s of sound the last {missing:.1f} s are missing."
            )


def _pieces(frames: Iterable[Any], channels: int, rate: int) -> Iterator[tuple[Any, np.ndarray]]:
    """Frames with their samples (N, channels) fp32 at `rate`, also where a damaged or joined file changes its kind.

    A last piece, what the converter held back, has no frame.
    """
    import av

    source: tuple[str, str, int] | None = None
    resampler: Any = None
    mix: np.ndarray | None = None  # (C, 2) of more than two channels

    def samples(frame: Any) -> np.ndarray:
        wave: np.ndarray = frame.to_ndarray()
        if mix is None:
            return wave.T
        with np.errstate(invalid="ignore", over="ignore"):  # what is no number is told of the mix
            return wave.reshape(-1, len(mix)) @ mix

    def converted(frame: Any) -> list[np.ndarray]:
        return [samples(part) for part in resampler.resample(frame)] if resampler else []

    for frame in frames:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        parts: list[np.ndarray] = []
        if kind != source:
            parts, source = converted(None), kind
            names = [channel.name for channel in frame.layout.channels]
            mix = downmix_matrix(names) if len(names) > 2 else None
            # PyAV crashes on eight planes, so many channels come in one
            wanted = ("fltp", LAYOUTS[len(names)]) if mix is None else ("flt", frame.layout.name)
            plain = kind == (*wanted, rate)
            resampler = None if plain else av.AudioResampler(*wanted, rate)
        if resampler is None:
            parts.append(samples(frame))
        else:
            pts, frame.pts = frame.pts, None  # only the order counts for the converter
            parts += converted(frame)
            frame.pts = pts
        yield frame, _joined(parts, channels)
    if rest := converted(None):
        yield None, _joined(rest, channels)


def _joined(parts: list[np.ndarray], channels: int) -> np.ndarray:
    same = [in_channels(part, channels) for part in parts]
    return np.concatenate(same) if same else np.zeros((0, channels), np.float32)
