"""Packets of a stream in whose format no time can be sought: what was passed once is found again by its place.

Raw MP3, AAC, AC-3 and the like are frames one behind the other, without a table of them. To find a second, all before
it has to be read. Many clips may be cut from one such file: where each packet lies is kept as it goes by, so that all
of them together read the file once.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_ltxw.media.containers import opened, packets_of, seek

_FILES = 8  # that are remembered
_FIELDS = 4


class _Passed:
    """Packets of one stream from its beginning on: place and size in bytes, presentation and its end in ticks."""

    def __init__(self) -> None:
        self._values = array("q")
        self.refused = False  # the format cannot be entered at a place, or its packets have none

    def __len__(self) -> int:
        return len(self._values) // _FIELDS

    def __getitem__(self, number: int) -> tuple[int, int, int, int]:
        place, size, pts, end = self._values[_FIELDS * number : _FIELDS * (number + 1)]
        return place, size, pts, end

    def add(self, packet: Any) -> None:
        """The next one; one without place or time, or out of order, ends the list for good."""
        place, pts = packet.pos, packet.pts
        end = (pts or 0) + (packet.duration or 0)
        last = self[len(self) - 1] if len(self) else (-1, 0, 0, -1)
        if self.refused or place is None or pts is None or place <= last[0] or end <= last[3]:
            self.refused = True
        else:
            self._values.extend((place, packet.size, pts, end))

    def at(self, tick: float) -> int:
        """The number of the first packet that ends at a tick or later, else of the last one; -1 without any."""
        found = bisect_left(range(len(self)), tick, key=lambda number: self[number][3])
        return min(found, len(self) - 1)


_files: OrderedDict[tuple[Any, ...], _Passed] = OrderedDict()


def packets_at(path: Path | str, container: Any, stream: Any, second: float) -> Iterator[Any]:
    """The packets of a stream that end at a second of the container's clock or later, and those without a time.

    Args:
        path: The file of the container, which nothing was read of yet.
    """
    tick = second / float(stream.time_base)
    for packet in _packets(path, container, stream, tick):
        if packet.pts is None or packet.pts + (packet.duration or 0) >= tick:
            yield packet


def _packets(path: Path | str, container: Any, stream: Any, tick: float) -> Iterator[Any]:
    """From the last known packet before a tick on, or from the beginning; each is kept in the list."""
    passed = _of(path, stream)
    number = -1 if passed.refused else passed.at(tick)
    packets = _entered(container, stream, passed, number) if number > 0 else packets_of(container, stream)
    if packets is None:
        passed.refused = True
        with opened(path) as other:  # this one may not find its beginning again
            yield from packets_of(other, other.streams[stream.index])
        return
    number = max(0, number)
    for packet in packets:
        if packet.size:
            if number == len(passed):
                passed.add(packet)
            number += 1
        yield packet


def _entered(container: Any, stream: Any, passed: _Passed, number: int) -> Iterator[Any] | None:
    """The packets from a known one on, with their times; None where another one comes."""
    import av

    place, size, pts, _ = passed[number]
    try:
        seek(container, place, unsupported_byte_offset=True)
        packets = packets_of(container, stream)
        first = next(packets)
    except (av.error.FFmpegError, StopIteration):
        return None
    return _timed(first, packets, pts) if (first.pos, first.size) == (place, size) else None


def _timed(first: Any, packets: Iterator[Any], pts: int) -> Iterator[Any]:
    """FFmpeg goes on counting where it was before: the first packet's time is known, each follows the one before."""
    packet: Any = first
    while packet is not None:
        if packet.size:
            packet.pts = packet.dts = pts
            pts += packet.duration or 0
        yield packet
        packet = next(packets, None)


def _of(path: Path | str, stream: Any) -> _Passed:
    found = os.stat(path)
    key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, stream.index)
    passed = _files.setdefault(key, _Passed())
    _files.move_to_end(key)
    while len(_files) > _FILES:
        _files.popitem(last=False)
    return passed
