"""A file's sound copied into an mp4 packet by packet, so that it stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from mlx_ltxw.media.containers import SOUND, audio_stream, format_names, opened, packets_of, start_of, video_stream

CODECS = ("aac", "mp3", "ac3", "eac3", "alac", "opus")
"""What players of mp4 files read. FLAC would be allowed too, and is not played on Apple's machines."""

_CONTAINERS = {"mov", "mp4", "matroska", "ogg", "adts", "aac", "mp3", "ac3", "eac3"}
_LATE = Fraction(1, 20)  # seconds; a sound that begins later would have to be shifted, and is encoded instead


class SoundCopy:
    """A file's sound on its way into an mp4.

    Args:
        clip: The opened file.
        stream: Its sound.
    """

    def __init__(self, clip: Any, stream: Any) -> None:
        self._clip, self._stream = clip, stream
        self._origin = int(start_of(video_stream(clip) or stream) / stream.time_base)
        self._track: Any = None

    def add_to(self, container: Any) -> None:
        """Makes the track; before anything is encoded."""
        self._track = container.add_stream_from_template(self._stream, opaque=True)
        self._track.time_base = self._stream.time_base

    def mux(self, container: Any, length: Fraction) -> None:
        """Copies the packets that begin before `length` seconds."""
        for packet in packets_of(self._clip, self._stream):
            if not packet.size or packet.pts is None:
                continue
            packet.pts, packet.dts = packet.pts - self._origin, (packet.dts or packet.pts) - self._origin
            if packet.pts * packet.time_base >= length:
                return
            packet.stream = self._track
            container.mux(packet)


@contextmanager
def copyable(path: Path | str | None) -> Iterator[SoundCopy | None]:
    """The sound of a file if it can be copied into an mp4 as it is; None if not, or without a file.

    Raises:
        UserError: the file cannot be read.
    """
    if path is None:
        yield None
        return
    with opened(path, SOUND) as clip:
        stream = audio_stream(clip)
        yield SoundCopy(clip, stream) if stream is not None and _fits(clip, stream) else None


def copies_sound(path: Path | str) -> bool:
    """Whether a file's sound can be copied into an mp4 as it is.

    Raises:
        UserError: the file cannot be read.
    """
    with copyable(path) as copy:
        return copy is not None


def _fits(clip: Any, stream: Any) -> bool:
    late = start_of(stream) - start_of(video_stream(clip) or stream)
    known = stream.codec_context.codec.canonical_name in CODECS and bool(format_names(clip) & _CONTAINERS)
    return known and abs(late) <= _LATE
