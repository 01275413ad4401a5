"""Where an mp4's edit list ends its picture: FFmpeg writes none that ends before the last packet."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

_HEADER = 8  # bytes: size and name (ISO/IEC 14496-12, section 4.2)


def set_edit_end(path: Path, seconds: Fraction) -> None:
    """Ends the picture of an mp4 that FFmpeg just wrote after so many seconds: in its edit list and both headers."""
    with path.open("r+b") as file:
        at = _find_movie(file.read(1 << 20), path.stat().st_size)
        file.seek(at)
        (size,) = struct.unpack(">I", file.read(4))
        file.seek(at)
        movie = bytearray(file.read(size))
        _shorten(movie, seconds)
        file.seek(at)
        file.write(movie)


def _find_movie(head: bytes, size: int) -> int:
    """The index stands in front (`faststart`), after the file type."""
    return next(at for name, at, _ in _boxes(head, 0, min(len(head), size)) if name == b"moov")


def _boxes(data: bytes | bytearray, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each box between two offsets."""
    while start + _HEADER <= end:
        size, name = struct.unpack(">I4s", data[start : start + _HEADER])
        yield name, start, start + size
        start += max(size, _HEADER)


def _within(data: bytearray, span: tuple[int, int], *path: bytes) -> tuple[int, int] | None:
    """The span of the box at `path` below one."""
    for wanted in path:
        found = [(at, end) for name, at, end in _boxes(data, span[0] + _HEADER, span[1]) if name == wanted]
        if not found:
            return None
        span = found[0]
    return span


def _shorten(movie: bytearray, seconds: Fraction) -> None:
    whole = (0, len(movie))
    header = _within(movie, whole, b"mvhd")
    assert header is not None
    (timescale,) = struct.unpack_from(">I", movie, header[0] + (28 if movie[header[0] + 8] else 20))
    ticks, longest = round(seconds * timescale), 0
    for name, at, end in _boxes(movie, _HEADER, len(movie)):
        handler = _within(movie, (at, end), b"mdia", b"hdlr") if name == b"trak" else None
        track = _within(movie, (at, end), b"tkhd") if handler else None
        if handler is None or track is None:
            continue
        where, wide = track[0] + (36 if movie[track[0] + 8] else 28), movie[track[0] + 8]
        if movie[handler[0] + 16 : handler[0] + 20] != b"vide":
            longest = max(longest, *struct.unpack_from(">Q" if wide else ">I", movie, where))
            continue
        edits = _within(movie, (at, end), b"edts", b"elst")
        _put(movie, where, wide, ticks)
        if edits:
            long = movie[edits[0] + 8]
            (count,) = struct.unpack_from(">I", movie, edits[0] + 12)
            entry = edits[0] + 16 + (count - 1) * (20 if long else 12)
            _put(movie, entry, long, ticks - _before(movie, edits[0] + 16, count - 1, long))
    _put(movie, header[0] + (32 if movie[header[0] + 8] else 24), movie[header[0] + 8], max(ticks, longest))


def _before(movie: bytearray, at: int, count: int, long: int) -> int:
    """Ticks that the edits before the last one take: an empty one where the picture begins late."""
    layout, size = (">Q", 20) if long else (">I", 12)
    return sum(struct.unpack_from(layout, movie, at + i * size)[0] for i in range(count))


def _put(movie: bytearray, at: int, long: int, ticks: int) -> None:
    struct.pack_into(">Q" if long else ">I", movie, at, ticks)
