"""MPEG-4 video as DivX and Xvid pack it into AVI: two frames in one packet, and an empty one in the second's turn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_MARK = re.compile(rb"(\x00\x00\x01\xb2DivX\d+(?:Build|b)\d+)p")
"""What DivX writes into the stream's headers; `p` is for packed."""
_FRONT = 1 << 16  # bytes in which a stream's headers stand


def unpacked(stream: Any, packets: Iterable[Any]) -> Iterator[Any]:
    """The packets with a frame in each, for files in which players look for no more; other codecs' as they are.

    Only FFmpeg's own decoder takes packed frames apart wherever they lie.
    """
    if stream.codec_context.name != "mpeg4":
        yield from packets
        return
    from av.bitstream import BitStreamFilterContext

    taken_apart = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
    for packet in packets:
        if not packet.size:
            yield packet
            continue
        for made in taken_apart.filter(packet):
            made.stream = stream
            yield made


def unmark(path: Path) -> None:
    """Takes the mark that frames are packed out of the headers of an mp4 whose index stands in front."""
    with path.open("r+b") as file:
        if found := _MARK.search(file.read(_FRONT)):
            file.seek(found.end() - 1)
            file.write(b"\0")
