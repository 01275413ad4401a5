"""Opening media files of any kind that FFmpeg reads, and what their headers say."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import not_a_file
from mlx_ltxw.media import searched
from mlx_ltxw.media.cut_off import ends_early

logger = logging.getLogger(__name__)

SOUND_OR_VIDEO = "Give a file with sound or video."
SOUND, VIDEO = "Give a file with sound.", "Give a video file."
"""What to do about a file of another kind."""

DAMAGED = "Play it in another program; if it is damaged there too, replace it."

# What FFmpeg may read, and how: this machine's files alone, and no format that names other files or addresses
# (playlists such as HLS, DASH, ffconcat and SDP, and numbered pictures).
_FORMATS = (
    "mov,matroska,mpegts,mpeg,avi,flv,live_flv,ogg,asf,mxf,nut,dv,rm,wtv,ivf,gif,apng,nsv,nuv,r3d,yuv4mpegpipe,"
    "wav,w64,aiff,au,caf,flac,mp3,aac,ac3,eac3,ac4,dts,dtshd,truehd,mlp,amr,amrnb,amrwb,wv,tta,ape,tak,shn,mpc,mpc8,"
    "voc,loas,latm,g722,gsm,oma,qcp,iff,xwma,spdif,dsf,ircam,sds,smjpeg,lc3,osq,qoa,"
    "h264,hevc,vvc,av1,obu,m4v,mpegvideo,mjpeg,mjpeg_2000,vc1,vc1test,dnxhd,dirac,h263,h261,"
    "png_pipe,jpeg_pipe,bmp_pipe,webp_pipe,tiff_pipe,jpegxl_pipe"
)
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.I)

_said: set[tuple[str, str]] = set()
_collected: ContextVar[list[str] | None] = ContextVar("_collected", default=None)


@dataclass(frozen=True)
class MediaInfo:
    """What a file's headers say; a part that is missing is None."""

    duration: float | None  # seconds, of the longest track
    fps: Fraction | None
    width: int | None  # as stored; `video.describe_picture` tells what is shown
    height: int | None
    rate: int | None  # of the sound, Hz
    channels: int | None


def note(path: Path | str, text: str) -> None:
    """Says something of a file that is read all the same: to `collected_notes` within one, else as a warning, once."""
    notes = _collected.get()
    if notes is not None and text not in notes:
        notes.append(text)
    if notes is None and (str(path), text) not in _said:
        logger.warning("%s %s", path, text)
    _said.add((str(path), text))


@contextmanager
def collected_notes() -> Iterator[list[str]]:
    """Gathers what `note` says within the block, each sentence without the file's name, in place of warnings."""
    notes: list[str] = []
    token = _collected.set(notes)
    try:
        yield notes
    finally:
        _collected.reset(token)


@contextmanager
def opened(path: Path | str, wanted: str = SOUND_OR_VIDEO, search: int | None = None) -> Iterator[Any]:
    """Opens a local media file with PyAV and names it in every error that reading it raises.

    Args:
        path: A regular file; addresses, pipes and devices are refused.
        wanted: What to do where it is none that is read here: what kind of file to give.
        search: Bytes that FFmpeg may search for the next packet; `searched.SEARCH` when None. See `packets_of`.

    Raises:
        UserError: missing, no media file, or damaged at any point while it is read.
    """
    import av

    check_regular(path, wanted)
    # tags of other programs need not be UTF-8; from 19 on, PyAV takes them as they are and has no such argument
    lenient = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    container = None
    try:
        with (
            closing(searched.SearchedFile(path, search or searched.SEARCH)) as file,
            av.open(file, options=_OPTIONS, **lenient) as container,
        ):
            file.begin()
            if file.lost:
                _note_lost(path, file)
                if "wav" in format_names(container):
                    container.seek(0)  # it was looked through for headers, and FFmpeg still holds that it has ended
            if early := ends_early(path):
                note(path, early)
            yield container
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} does not exist.", "Check the name and the folder.") from error
    except PermissionError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}.", "Give a file that you may read.") from error
    except av.error.FFmpegError as error:
        if container is None and error.errno == errno.EINVAL:  # what FFmpeg says of a format that is not listed
            text = f"{path} is a playlist, or of another kind that is not read here."
            raise UserError(text, wanted) from error
        raise UserError(f"{path} cannot be read as sound or video: {error.strerror}.", DAMAGED) from error


def packets_of(container: Any, *streams: Any) -> Iterator[Any]:
    """The packets of some streams of a container, from where it stands.

    Where none of any stream comes for long, the file is taken to end there, which is said: a damaged one of gigabytes
    would be searched to its end.
    """
    file, wanted = container.file.file, {stream.index for stream in streams}
    for packet in container.demux():
        file.found()
        if packet.stream.index in wanted:
            yield packet
    _note_lost(container.name.removeprefix("file:"), file)


def seek(container: Any, place: int, **options: Any) -> None:
    """As the container's own `seek`; whatever was searched before does not count."""
    container.file.file.begin()
    container.seek(place, **options)


def _note_lost(path: Path | str, file: searched.SearchedFile) -> None:
    if file.lost:
        note(path, "is damaged: a long stretch of it holds nothing to play, and what follows is left out.")


def check_regular(path: Path | str, wanted: str) -> None:
    """Refuses what is no file on this machine; `wanted` is what to do about a folder, a pipe or a device.

    Raises:
        UserError: it is missing, an address, or no regular file.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        if _ADDRESS.match(str(path)):
            raise UserError(f"{path} is no file on this machine.", "Download it, and give the file.") from error
        raise UserError(f"{path} does not exist.", "Check the name and the folder.") from error
    except (OSError, ValueError) as error:  # a name too long, or with a null character
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be opened: {reason}.", "Check the name and the folder.") from error
    if text := not_a_file(path, mode):
        raise UserError(text, wanted)


def probe(path: Path | str, wanted: str = SOUND_OR_VIDEO) -> MediaInfo:
    """Reads a file's headers only; `wanted` as for `opened`.

    Raises:
        UserError: the file cannot be read.
    """
    with opened(path, wanted) as container:
        return info_of(container)


def info_of(container: Any) -> MediaInfo:
    """What `probe` tells, of a container that is open."""
    video, audio = _best(_pictures(container)), _best(_sounds(container))
    return MediaInfo(
        duration=None if container.duration is None else container.duration / 1e6,
        fps=video.average_rate if video else None,
        width=video.width if video else None,
        height=video.height if video else None,
        rate=audio.rate if audio else None,
        channels=audio.channels if audio else None,
    )


def video_stream(container: Any) -> Any:
    """The video stream that players show, or None: the default one with a known codec that is no cover picture."""
    return _noted(container, _pictures(container), "picture")


def audio_stream(container: Any) -> Any:
    """The audio stream that players play, or None: the default one with a known codec."""
    return _noted(container, _sounds(container), "sound")


def start_of(stream: Any) -> Fraction:
    """The second, on the container's clock, at which a stream begins."""
    return (stream.start_time or 0) * stream.time_base


def seconds_of(ticks: int, base: Fraction) -> float:
    """What `float(ticks * base)` is, in a fifth of its time: it is asked of every packet and frame."""
    return ticks * base.numerator / base.denominator


def format_names(container: Any) -> set[str]:
    """FFmpeg's names of a container's format, such as {"mov", "mp4", ...}."""
    return set(container.format.name.split(","))


def in_coded_order(container: Any, stream: Any) -> bool:
    """Whether a picture's packets tell the order of their decoding and not when each is shown; FFmpeg guesses then."""
    return "avi" in format_names(container) and stream.type == "video"


def restarts(container: Any, jump: float) -> bool:
    """Whether a stream's clock was set anew where it jumps by so many seconds: joined recordings, broadcasts."""
    return not -0.1 <= jump <= 10 and bool(format_names(container) & {"mpegts", "mpeg"})


def _pictures(container: Any) -> list[Any]:
    from av.stream import Disposition

    left_out = Disposition.attached_pic | Disposition.timed_thumbnails
    return [s for s in container.streams.video if s.codec_context and not s.disposition & left_out]


def _sounds(container: Any) -> list[Any]:
    return [s for s in container.streams.audio if s.codec_context and s.channels]


def _best(streams: list[Any]) -> Any:
    """The first of those marked as default, or of all that are no help for the blind or deaf and no commentary."""
    from av.stream import Disposition

    aside = Disposition.visual_impaired | Disposition.hearing_impaired | Disposition.comment | Disposition.descriptions
    ranked = sorted(streams, key=lambda s: (not s.disposition & Disposition.default, bool(s.disposition & aside)))
    return ranked[0] if ranked else None


def _noted(container: Any, streams: list[Any], kind: str) -> Any:
    best = _best(streams)
    if len(streams) > 1:
        text = f"has {len(streams)} {kind} tracks; track {streams.index(best) + 1}, which players take, is used."
        note(container.name.removeprefix("file:"), text)
    return best
