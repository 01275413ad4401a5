"""What the check of the data asks of one file, in one reading of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import blocks_of
from mlx_ltxw.media.containers import MediaInfo, collected_notes, info_of, note, opened, packets_of, video_stream
from mlx_ltxw.media.video import PictureLength, picture_seconds
from mlx_ltxw.train.data.cutting import RATE, Levels, levels


@dataclass(frozen=True)
class Examined:
    """A file that may become clips.

    Attributes:
        info: What its headers say.
        length: Seconds of its picture; 0 where it has none, or none is wanted.
        levels: How loud its sound is; or why that cannot be read.
    """

    info: MediaInfo
    length: float
    levels: Levels | UserError


def examine(path: Path, start: float = 0.0, end: float = math.inf, picture: bool = True) -> Examined:
    """Opens a file once; the picture's packets are counted while the sound's are decoded.

    Args:
        start, end: Seconds of the sound to listen to.
        picture: Whether the picture's length is wanted.

    Raises:
        UserError: the file cannot be read, or its picture ends before its header says so.
    """
    with opened(path) as container:
        info = info_of(container)
        if not info.channels or not info.rate:
            return Examined(info, 0.0, levels([]))
        stream = video_stream(container) if picture else None
        watched = None if stream is None else _Watched(path, container, stream)
        seconds = end - start if math.isfinite(end) else None
        found: Levels | UserError
        with collected_notes() as notes:  # of the sound; where the picture is damaged, that is what is said
            try:
                blocks = blocks_of(path, watched or container, RATE, 1, start, seconds)
                found = levels(block[:, 0] for block in blocks)
            except UserError as problem:
                found = problem
        length = watched.seconds() if watched else 0.0
        for text in notes:
            note(path, text)
        return Examined(info, length, found)


class _Watched:
    """A container whose picture is measured by the packets that go by while its sound is read."""

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        self._path, self._container, self._stream = path, container, stream
        self._length = PictureLength(path, container, stream)
        self._sought = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def seek(self, *args: Any, **options: Any) -> None:
        self._sought = True
        self._container.seek(*args, **options)

    def demux(self) -> Iterator[Any]:
        for packet in self._container.demux():
            if packet.stream.index == self._stream.index and not self._sought:
                self._length.push(packet)
            yield packet

    def seconds(self) -> float:
        """How long the picture lasts; reads the rest of the file.

        Raises:
            UserError: it ends before its header says so.
        """
        if self._sought:
            return picture_seconds(self._path)
        for packet in packets_of(self._container, self._stream):
            self._length.push(packet)
        return self._length.seconds()
