"""Pictures in, from any container that FFmpeg reads."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.colour import RgbConverter, is_hdr
from mlx_ltxw.media.containers import (
    DAMAGED,
    VIDEO,
    format_names,
    in_coded_order,
    note,
    opened,
    packets_of,
    restarts,
    seconds_of,
    start_of,
    video_stream,
)
from mlx_ltxw.media.decoding import decoded

LONGEST_FRAME = 3600.0
"""Seconds that one frame may claim to be on screen."""

_SLANTED = 0.02  # of a display matrix's larger part, that its smaller one is at a right angle at most
_GUESSED_RATE = 25  # frames a second, where nothing tells


@dataclass(frozen=True)
class Picture:
    """What a player shows of a file.

    Attributes:
        width, height: Pixels, with the picture turned as its rotation mark says and its pixels made square.
        seconds: From the first frame to the end of the last.
    """

    width: int
    height: int
    seconds: float


def is_still(path: Path | str) -> bool:
    """Whether a file is one picture and no clip: a single frame without sound.

    Raises:
        UserError: the file cannot be read.
    """
    with opened(path, VIDEO) as container:
        stream = video_stream(container)
        if stream is None or container.streams.audio:
            return False
        packets = (packet for packet in packets_of(container, stream) if packet.size)
        return next(packets, None) is not None and next(packets, None) is None


def describe_picture(path: Path | str) -> Picture:
    """The size and length that a file's picture has on screen; decodes one frame.

    Raises:
        UserError: the file cannot be read, has no picture, or ends before its header says so.
    """
    seconds = picture_seconds(path)
    with opened(path, VIDEO) as container:
        stream = _picture_stream(path, container)
        for frame in decoded(path, container, stream, 0.0):
            width, height = frame.width * float(stream.sample_aspect_ratio or 1), float(frame.height)
            if _orientation(frame)[0]:
                width, height = height, width
            return Picture(max(1, round(width)), max(1, round(height)), seconds)
    raise UserError(f"{path} has no picture that can be decoded.", "Give a video file.")


def picture_seconds(path: Path | str) -> float:
    """How long the picture of a file lasts, from its packets' times; decodes nothing. 0 without a picture.

    Raises:
        UserError: the file cannot be read, or ends before its header says so.
    """
    with opened(path, VIDEO) as container:
        stream = video_stream(container)
        if stream is None:
            return 0.0
        length = PictureLength(path, container, stream)
        for packet in packets_of(container, stream):
            length.push(packet)
        return length.seconds()


class PictureLength:
    """How long a picture lasts, from all of its packets, one after another."""

    def __init__(self, path: Path | str, container: Any, stream: Any) -> None:
        self._path, self._container, self._stream = path, container, stream
        self._step, self._ordered = frame_seconds(stream), in_coded_order(container, stream)
        self._origin = float(start_of(stream))
        self._shift = self._end = self._latest = 0.0
        self._before: float | None = None
        self._count = 0

    def push(self, packet: Any) -> None:
        """Takes the next packet.

        Raises:
            UserError: it claims to be on screen for longer than anybody shows one.
        """
        self._count += packet.size > 0
        if packet.pts is None or packet.is_discard:
            return
        dated = seconds_of(packet.pts if packet.dts is None else packet.dts, packet.time_base) + self._shift
        if self._before is not None and restarts(self._container, dated - self._before):
            self._shift += self._before + self._step - dated
            dated = self._before + self._step
        self._before = dated
        shown = packet.dts if self._ordered and packet.dts is not None else packet.pts
        begin = seconds_of(shown, packet.time_base) - self._origin + self._shift
        self._latest = max(self._latest, begin)
        self._end = max(self._end, begin + presented_seconds(self._path, packet, self._step))

    def seconds(self) -> float:
        """Of all packets.

        Raises:
            UserError: they end before the header says so.
        """
        end = self._end or self._count * self._step
        return _checked_end(self._path, self._container, self._stream, end, self._latest + self._step)


def read_video(
    path: Path | str,
    frames: int,
    fps: float | Fraction,
    width: int,
    height: int,
    *,
    start: float = 0.0,
    hold: int = 0,
) -> np.ndarray:
    """The picture of a file at another rate and size.

    Each instant shows the frame that is on screen then, scaled to cover `width` x `height` and cropped about the
    centre; pixel shape and a phone's rotation mark are honoured, and pictures in PQ or HLG are tone-mapped.

    Args:
        path: Any file with a picture.
        frames: How many to return.
        fps: Their rate.
        width, height: Their size.
        start: Seconds to leave out at the beginning.
        hold: Up to so many frames that are missing at the end repeat the last one.

    Returns:
        (frames, height, width, 3) uint8, RGB.

    Raises:
        UserError: no picture in it, damaged, or too short.
    """
    out = np.empty((frames, height, width, 3), np.uint8)
    done = 0
    with opened(path, VIDEO) as container:
        stream = _picture_stream(path, container)
        convert = RgbConverter()
        for frame, until in _timeline(path, container, stream, start):
            # a tenth of a frame forgives timestamps that were rounded to milliseconds
            stop = min(frames, math.ceil((until - start) * fps - 0.1))
            if stop > done:
                out[done:stop] = _conform(frame, stream, width, height, convert)
                done = stop
            if done == frames:
                return out
    if done and frames - done <= hold:
        out[done:] = out[done - 1]
        return out
    raise UserError(
        f"{path} is too short: {done} of {frames} frames at {float(fps):g} frames a second.",
        "Use a longer clip, or ask for fewer frames.",
    )


def frame_seconds(stream: Any) -> float:
    """How long a frame is on screen where it does not say so itself."""
    return float(1 / (stream.average_rate or stream.guessed_rate or _GUESSED_RATE))


def presented_seconds(path: Path | str, packet: Any, step: float) -> float:
    """How long a packet's, or a decoded frame's, picture is on screen; `step` where it does not say.

    Raises:
        UserError: longer than anybody shows one.
    """
    seconds = seconds_of(packet.duration, packet.time_base) if packet.duration else step
    if seconds > LONGEST_FRAME:
        raise UserError(f"{path} is damaged: one of its frames claims to last {seconds:,.0f} s.", DAMAGED)
    return seconds


def _picture_stream(path: Path | str, container: Any) -> Any:
    stream = video_stream(container)
    if stream is None:
        raise UserError(f"{path} has no picture that can be decoded.", "Give a video file.")
    return stream


def _checked_end(path: Path | str, container: Any, stream: Any, end: float, least: float) -> float:
    """The end by the packets against the header's; an mp4's edit list may show its last frame for less long."""
    promised = float(stream.duration * stream.time_base) if stream.duration else end
    exact = "mp4" in format_names(container)
    if end >= promised - max(0.1, 2 * frame_seconds(stream)):
        return min(end, max(promised, least)) if exact else end
    text = f"its picture ends after {end:.2f} of {promised:.2f} seconds."
    if exact:
        raise UserError(f"{path} is damaged: {text}", DAMAGED)
    note(path, f"may be cut off: {text}")
    return end


def _timeline(path: Path | str, container: Any, stream: Any, start: float) -> Iterator[tuple[Any, float]]:
    """Decoded frames, each with the second (from the stream's start) at which the next one takes its place."""
    origin = float(start_of(stream))
    step = frame_seconds(stream)
    waiting, time, shift = None, -step, 0.0
    for frame in decoded(path, container, stream, origin + start):
        before = time
        time = time + step if frame.pts is None else seconds_of(frame.pts, frame.time_base) - origin + shift
        if waiting is None and is_hdr(frame):
            note(path, "is of high dynamic range; its picture is tone-mapped to BT.709.")
        if waiting is None and _is_slanted(frame):
            note(path, "has a mark that turns its picture by no right angle; it is shown as it is stored.")
        if waiting is not None:
            if restarts(container, time - before):
                shift += before + step - time
                time = before + step
            yield waiting, time
        waiting = frame
    if waiting is not None:
        yield waiting, time + presented_seconds(path, waiting, step)


def _orientation(frame: Any) -> tuple[bool, bool, bool]:
    """How a decoded frame is brought upright: whether transposed, then mirrored left to right, then top to bottom.

    By the display matrix: ((a, b), (c, d)) takes a stored pixel (x, y) to (ax + cy, bx + dy); ISO/IEC 14496-12, 6.2.2.
    """
    a, b, c, d = _display_matrix(frame)
    if _is_slanted(frame):
        return False, False, False
    return (True, c < 0, b < 0) if abs(b) > abs(a) else (False, a < 0, d < 0)


def _is_slanted(frame: Any) -> bool:
    a, b, c, d = map(abs, _display_matrix(frame))
    return min(a + d, b + c) > _SLANTED * max(a + d, b + c)


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = struct.unpack("<5i" if sys.byteorder == "little" else ">5i", bytes(matrix)[:20])
    return a, b, c, d


def _conform(frame: Any, stream: Any, width: int, height: int, convert: RgbConverter) -> np.ndarray:
    """A decoded frame -> (height, width, 3) uint8."""
    transposed, mirrored, upended = _orientation(frame)
    across, down = (height, width) if transposed else (width, height)  # as the frame is stored
    shape = float(stream.sample_aspect_ratio or 1)
    scale = max(across / (frame.width * shape), down / frame.height)
    wide, high = max(across, round(frame.width * shape * scale)), max(down, round(frame.height * scale))
    stored = convert(frame, wide, high)
    turned = stored.swapaxes(0, 1) if transposed else stored
    shown = turned[:: -1 if upended else 1, :: -1 if mirrored else 1]
    top, left = (shown.shape[0] - height) // 2, (shown.shape[1] - width) // 2
    return shown[top : top + height, left : left + width]
