"""Whether a PNG's pixels are all there: a stream that ends early and cleanly leaves the rest of a picture black."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type (PNG, third edition, section 11.2.1)
_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of each pass, its first column and row, and the steps to the next ones (section 8.1)."""
_PIECE = 1 << 20


def lacks_pixels(path: Path | str) -> bool:
    """Whether the compressed pixels of a PNG are fewer than its header says; False for other files.

    Pillow sees what is wrong with a stream, and takes one that says of itself that it is over.
    """
    with Path(path).open("rb") as file:
        if file.read(8) != _SIGNATURE:
            return False
        chunks = _chunks(file)
        kind, size = next(chunks, (b"", 0))
        if kind != b"IHDR" or size != 13:
            return False
        left, stream = _bytes(*struct.unpack(">IIBBBBB", file.read(13))), zlib.decompressobj()
        with suppress(zlib.error):
            for kind, size in chunks:
                left -= _inflated(file, size, stream, left) if kind == b"IDAT" else 0
                if left <= 0:
                    return False
            return True
    return False


def _bytes(width: int, height: int, depth: int, colour: int, _compression: int, _filter: int, interlaced: int) -> int:
    """Of all rows, each with its filter's byte in front."""
    bits, total = depth * _CHANNELS.get(colour, 0), 0
    for left, top, across, down in _ADAM7 if interlaced else _WHOLE:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        total += rows * (1 + -(-columns * bits // 8)) if columns > 0 and rows > 0 else 0
    return total


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and size of each chunk, the file standing at its data."""
    at = file.tell()
    while len(head := file.read(8)) == 8:
        size = int.from_bytes(head[:4], "big")
        yield head[4:], size
        at += 12 + size
        file.seek(at)


def _inflated(file: BinaryIO, size: int, stream: zlib._Decompress, most: int) -> int:
    """How many bytes a chunk's data are, decompressed; no more are counted than `most`."""
    count = 0
    while size and count < most and (data := file.read(min(size, _PIECE))):
        size -= len(data)
        while data and count < most and not stream.eof:
            count += len(stream.decompress(data, _PIECE))
            data = stream.unconsumed_tail
    return count
