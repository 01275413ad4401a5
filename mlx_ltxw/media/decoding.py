"""Decoded frames of a stream from a given second on, whatever a seek in its container is worth."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.media import searched
from mlx_ltxw.media.containers import (
    DAMAGED,
    format_names,
    in_coded_order,
    note,
    opened,
    packets_of,
    seconds_of,
    seek,
    start_of,
    video_stream,
)
from mlx_ltxw.media.passed import packets_at
from mlx_ltxw.media.unpacked import unpacked

_EARLY = 0.5  # seconds that are decoded before they are used, for decoder and clock to settle
_NEAR = 1.0  # seconds; what begins sooner is decoded from the start
_MOST_DAMAGED = 0.1  # share of undecodable packets from which a file is refused
_MOST_IN_A_ROW = 1000  # of them, and as many bytes as are searched for a packet: what follows is not tried

# Formats whose packets carry their times. Elsewhere FFmpeg guesses, after a seek, from the number of bytes.
_TIMED = {"mov", "matroska", "mpegts", "mpeg", "avi", "flv", "ogg", "asf", "mxf", "nut"}
_COUNTED = {"wav", "w64", "aiff", "au", "caf"}  # so do these with samples of one size


def decoded(path: Path | str, container: Any, stream: Any, start: float) -> Iterator[Any]:
    """The frames of a stream, the first of which is on screen at second `start` or was before, where there is one.

    A seek may land later than asked, or inside a frame: what comes out is compared with what was asked for, and a
    landing too late is tried again from farther back, at last from the file's beginning. Undecodable packets are left
    out and noted.

    Args:
        path: For messages.
        start: Seconds on the container's clock.

    Raises:
        UserError: more than a tenth of the packets cannot be decoded.
    """
    frames = _decoded(path, container, stream, start)
    yield from _in_display_order(path, stream, frames) if in_coded_order(container, stream) else frames


def _decoded(path: Path | str, container: Any, stream: Any, start: float) -> Iterator[Any]:
    begin = float(start_of(stream))
    target = start - _EARLY
    if start - begin <= _NEAR:
        yield from _frames(path, stream, packets_of(container, stream))
    elif not _seekable(container, stream):
        audio = stream.type == "audio"
        yield from _frames(
            path, stream, packets_at(path, container, stream, target) if audio else packets_of(container, stream)
        )
    else:
        yield from _landed(path, container, stream, begin, target)


def _in_display_order(path: Path | str, stream: Any, frames: Iterator[Any]) -> Iterator[Any]:
    """Frames of an AVI with the times at which they are shown.

    Its packets have no times but their own order. A frame comes out with that of the packet which pushed it out, later
    than its turn by as many packets as the decoder holds back, which the first frame of the file tells.
    """
    late: int | None = None
    for frame in frames:
        if frame.dts is not None:
            late = _held_back(path) if late is None else late
            frame.pts = frame.dts - late
        else:
            frame.pts = None  # of those that come when the packets have ended; each follows the one before it
        yield frame


def display_times(path: Path | str) -> list[tuple[int, int] | None]:
    """When each packet of an AVI's picture is shown, found by decoding all, and by when it is to be decoded.

    -> (presentation, decoding) in ticks, the first never the smaller one; None for a packet that shows nothing.

    Raises:
        UserError: as `decoded`.
    """
    with opened(path) as container:
        stream = video_stream(container)
        ticks: list[int] = []

        def numbered() -> Iterator[Any]:
            for packet in unpacked(stream, packets_of(container, stream)):
                if packet.size:
                    packet.pts = len(ticks)  # its frame comes out with this number
                    ticks.append(packet.dts)
                yield packet

        step = round(1 / (stream.average_rate * stream.time_base)) if stream.average_rate else 1
        times: dict[int, int] = {}
        late = time = None
        for frame in _frames(path, stream, numbered()):
            if frame.dts is not None:
                late = frame.dts - ticks[0] if late is None else late
                time = frame.dts - late
            else:
                time = ticks[0] if time is None else time + step
            times.setdefault(frame.pts, time)
    back = max((tick - times[number] for number, tick in enumerate(ticks) if number in times), default=0)
    return [(times[number], tick - back) if number in times else None for number, tick in enumerate(ticks)]


def _held_back(path: Path | str) -> int:
    """How many ticks after its first packet a picture's first frame comes out."""
    with opened(path) as container:
        stream = video_stream(container)
        packets = (packet for packet in packets_of(container, stream) if packet.size)
        first = next(packets, None)
        frame = None if first is None else next(_frames(path, stream, chain([first], packets)), None)
        return 0 if first is None or frame is None or None in (first.dts, frame.dts) else int(frame.dts - first.dts)


def _landed(path: Path | str, container: Any, stream: Any, begin: float, target: float) -> Iterator[Any]:
    back = 0.5
    while target - back > begin:
        seek(container, int((target - back) * 1e6))
        frames = _timed(_frames(path, stream, _from_key(packets_of(container, stream), stream), landing=True))
        first = next(frames, None)
        if first is not None and seconds_of(first.pts, first.time_base) <= target:
            yield first
            yield from frames
            return
        back *= 4
    _rewind(container, begin)
    yield from _frames(path, stream, packets_of(container, stream))


def _rewind(container: Any, begin: float) -> None:
    """To the first packet: some formats refuse a place before it, and some find it only from there."""
    import av

    try:
        seek(container, int(min(begin, 0.0) * 1e6) - 1_000_000)
    except av.error.FFmpegError:
        seek(container, int(begin * 1e6))


def _seekable(container: Any, stream: Any) -> bool:
    names = format_names(container)
    return bool(names & _TIMED or (names & _COUNTED and stream.codec_context.name.startswith("pcm_")))


def _from_key(packets: Iterator[Any], stream: Any) -> Iterator[Any]:
    """From the first key frame on: what comes before it after a seek is built on pictures that were not seen."""
    waiting = stream.type == "video"
    for packet in packets:
        waiting = waiting and not packet.is_keyframe and packet.size > 0
        if not waiting:
            yield packet


def _timed(frames: Iterator[Any]) -> Iterator[Any]:
    """From the first frame on whose time is known."""
    known = False
    for frame in frames:
        known = known or frame.pts is not None
        if known:
            yield frame


def _frames(path: Path | str, stream: Any, packets: Iterator[Any], landing: bool = False) -> Iterator[Any]:
    """Decodes; after a `landing`, what comes before the first frame may be cut and is no damage."""
    import av

    if stream.type == "video" and not stream.codec_context.is_open:
        stream.thread_type = "AUTO"
    bad = count = row = size = 0  # the last two since the last frame
    for packet in packets:
        if not packet.size and packet.dts is not None:
            continue  # the picture before it stays; an empty packet without a time ends the stream
        count, row, size = count + (packet.size > 0), row + 1, size + packet.size
        if row > _MOST_IN_A_ROW and size > searched.SEARCH:
            raise UserError(f"{path} is damaged: {row:,} packets in a row cannot be decoded.", DAMAGED)
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            bad += not landing
            continue
        if frames:
            landing, row, size = False, 0, 0
        yield from frames
    if bad > max(1, _MOST_DAMAGED * count):
        raise UserError(f"{path} is damaged: {bad} of {count} of its packets cannot be decoded.", DAMAGED)
    if bad:
        note(path, f"is damaged: {bad} of {count} packets of its {stream.type} cannot be decoded and are left out.")
