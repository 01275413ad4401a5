"""Files that hold less than their headers say: broken downloads and recordings that were not closed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from mlx_ltxw.media.last_frame import ends_inside_a_frame

_UNKNOWN = 0x7FFF0000  # what writes to a pipe puts a size from here on, as it cannot know the real one
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067  # Matroska's element ids (RFC 9559)
_TAIL = 1 << 17  # bytes; an Ogg page has at most 65307 (RFC 3533)
_LAST_PAGE = 0x04
_SLACK = 2  # bytes; a missing padding byte is no loss
_OPEN_END = 1 << 62  # bytes: the end is not there, and how far off it is is not known


def ends_early(path: Path | str) -> str | None:
    """What to say of a RIFF (wav, avi), AIFF, Matroska, Ogg, MP3, AC-3 or ADTS file that is cut off, or None."""
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            promised = _promised(file, size)
            inside = promised is None and ends_inside_a_frame(file, size)
    except (OSError, struct.error):
        return None  # whoever reads the file says what is wrong
    if inside:
        return "ends inside a frame; it may be cut off."
    if promised is None or promised <= size + _SLACK:
        return None
    if promised == _OPEN_END:
        return "does not end as such a file does; it may be cut off."
    return f"is cut off: it holds {size:,} of {promised:,} bytes."


def _promised(file: BinaryIO, size: int) -> int | None:
    """How many bytes the file should have by its header."""
    start = file.read(4)
    if start in (b"RIFF", b"RF64", b"FORM", b"RIFX"):
        return _chunks_end(file, size, ">I" if start in (b"FORM", b"RIFX") else "<I")
    if start == struct.pack(">I", _EBML):
        return _segment_end(file)
    if start == b"OggS":
        return _last_page_end(file, size)
    if start[:3] == b"ID3" or (len(start) == 4 and start[0] == 0xFF and start[1] & 0xE6 == 0xE2):
        return _mp3_end(file)
    return None


def _chunks_end(file: BinaryIO, size: int, order: str) -> int | None:
    """The end of the last of a file's outermost chunks; large AVI files have several."""
    at = 0
    while at < size - 8:
        file.seek(at)
        name, length = file.read(4), struct.unpack(order, file.read(4))[0]
        if name not in (b"RIFF", b"FORM", b"RIFX"):
            return None
        if not length or length >= _UNKNOWN:
            return None
        at += 8 + length + length % 2
    return at - length % 2 if at else None


def _segment_end(file: BinaryIO) -> int | None:
    """The end of Matroska's first segment; None for one of unknown size, as live recordings have."""
    length = _vint(file)
    if length is None:
        return None
    file.seek(length, 1)
    if file.read(4) != struct.pack(">I", _SEGMENT):
        return None
    length = _vint(file)
    return None if length is None else file.tell() + length


def _vint(file: BinaryIO) -> int | None:
    """EBML's integer of variable length (RFC 8794, section 4); None when all its bits are set."""
    first = int.from_bytes(file.read(1), "big")
    if not first:
        return None
    more = 8 - first.bit_length()
    value = int.from_bytes(bytes([first & (0x7F >> more)]) + file.read(more), "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value


def _last_page_end(file: BinaryIO, size: int) -> int | None:
    """An end beyond any file when the last page is not marked as such or is not all there."""
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0 or len(tail) < at + 27:
        return _OPEN_END
    table = tail[at + 27 : at + 27 + tail[at + 26]]
    whole = len(table) == tail[at + 26] and len(tail) >= at + 27 + len(table) + sum(table)
    return None if whole and tail[at + 5] & _LAST_PAGE else _OPEN_END


def _mp3_end(file: BinaryIO) -> int | None:
    """By the number of bytes in the first frame's Xing or Info header, where there is one."""
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3":
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    file.seek(start)
    frame = file.read(256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0:
        return None
    (flags,) = struct.unpack(">I", frame[at + 4 : at + 8])
    if not flags & 2:
        return None
    where = at + 8 + (4 if flags & 1 else 0)
    return start + int(struct.unpack(">I", frame[where : where + 4])[0])
