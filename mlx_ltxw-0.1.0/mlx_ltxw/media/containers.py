"""Opening media files of any kind that FFmpeg reads, and what their headers say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError

DAMAGED = "Play it in another program; if it is damaged there too, replace it."


@dataclass(frozen=True)
class MediaInfo:
    """What a file says about itself; a part that is missing is None."""

    duration: float | None  # seconds
    fps: Fraction | None
    width: int | None
    height: int | None
    rate: int | None  # of the sound, Hz
    channels: int | None


@contextmanager
def opened(path: Path | str) -> Iterator[Any]:
    """Opens a media file with PyAV and names it in every error that reading it raises.

    Raises:
        UserError: missing, no media file, or damaged at any point while it is read.
    """
    import av

    # tags of other programs need not be UTF-8; from 19 on, PyAV takes them as they are and has no such argument
    lenient = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:
        with av.open(str(path), **lenient) as container:
            yield container
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} does not exist.", "Check the name and the folder.") from error
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}.", "Give a file that you may read.") from error
    except av.error.FFmpegError as error:
        raise UserError(f"{path} cannot be read as sound or video: {error.strerror}.", DAMAGED) from error


def probe(path: Path | str) -> MediaInfo:
    """Reads a file's headers only.

    Raises:
        UserError: the file cannot be read.
    """
    with opened(path) as container:
        video, audio = video_stream(container), audio_stream(container)
        return MediaInfo(
            duration=None if container.duration is None else container.duration / 1e6,
            fps=video.average_rate if video else None,
            width=video.width if video else None,
            height=video.height if video else None,
            rate=audio.rate if audio else None,
            channels=audio.channels if audio else None,
        )


def video_stream(container: Any) -> Any:
    """The first video stream with a known codec that is not a cover picture, or None."""
    from av.stream import Disposition

    streams = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    return next((s for s in streams if s.codec_context), None)


def audio_stream(container: Any) -> Any:
    """The first audio stream with a known codec, or None."""
    return next((s for s in container.streams.audio if s.codec_context), None)


def start_of(stream: Any) -> Fraction:
    """The second, on the container's clock, at which a stream begins."""
    return (stream.start_time or 0) * stream.time_base
