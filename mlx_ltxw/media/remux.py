"""A new voice for an existing clip, whose picture is copied packet by packet, never encoded anew."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import replacing, write_errors
from mlx_ltxw.media.audio import as_stereo
from mlx_ltxw.media.containers import (
    DAMAGED,
    VIDEO,
    format_names,
    in_coded_order,
    opened,
    packets_of,
    restarts,
    start_of,
    video_stream,
)
from mlx_ltxw.media.decoding import display_times
from mlx_ltxw.media.edit_end import set_edit_end
from mlx_ltxw.media.mp4 import add_tracks, created, mux_audio
from mlx_ltxw.media.unpacked import unmark, unpacked
from mlx_ltxw.media.video import frame_seconds, presented_seconds

_CONVERT = "Convert it to H.264 first (ffmpeg -i IN -c:v libx264 OUT.mp4)."
_PACK = "Put it into an mp4 first (ffmpeg -i IN -c copy OUT.mp4)."
_TAGS = {"hevc": "hvc1"}  # Apple's players refuse FFmpeg's own choice, hev1


def remux(
    source: Path | str,
    waveform: np.ndarray | Sequence[np.ndarray],
    path: Path | str,
    *,
    tracks: Sequence[str] = ("",),
    default: int = 0,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Gives a clip a new voice: its video packets are copied untouched, its sound is replaced.

    The result begins at second 0 and lasts as long as a player shows the clip's picture. Rotation, pixel shape and
    colour tags stay; what an edit list hides stays hidden.

    Args:
        source: Any clip whose video codec mp4 can hold.
        waveform: (N, 2) fp32 in [-1, 1] at 48 kHz, or one for each of `tracks`; padded or cut to the picture's length.
        tracks: Titles of the sound tracks; an empty one is none.
        default: The track that a player takes.
        path: The mp4 to write; may be `source` itself.

    Raises:
        UserError: `source` cannot be read, has no picture, or a codec that mp4 cannot hold; `path` cannot be written.
    """
    path, sounds = Path(path), [waveform] if isinstance(waveform, np.ndarray) else waveform
    sounds = [as_stereo(sound) for sound in sounds]
    with replacing(path) as partial, opened(source, VIDEO) as clip:
        stream = _stream(source, clip)
        presented = _Presented()
        with created(path, partial, metadata) as container:
            video = _add_copy(source, container, stream)
            audio = add_tracks(container, tracks, default)
            _begin(source, container, stream)
            for packet in _timed_packets(source, clip, stream, presented):
                packet.stream = video
                with write_errors(path):
                    container.mux(packet)
            with write_errors(path):
                for track, sound in zip(audio, sounds, strict=True):
                    mux_audio(container, track, sound, presented.end)
                container.close()
        with write_errors(path):
            unmark(partial)
            if presented.hidden:
                set_edit_end(partial, presented.end)


def check_remux(source: Path | str) -> None:
    """Refuses what `remux` would refuse of a clip, so that a long run fails before it starts.

    Raises:
        UserError: as `remux`.
    """
    import av

    with opened(source, VIDEO) as clip:
        stream = _stream(source, clip)
        container = av.open(io.BytesIO(), "w", format="mp4")
        _add_copy(source, container, stream)
        _begin(source, container, stream)
        for _ in _timed_packets(source, clip, stream, _Presented()):
            pass
        with suppress(av.error.FFmpegError):  # there is nothing in it
            container.close()


@dataclass
class _Presented:
    """What a player shows of the packets: until which second, and whether some that are kept lie after that."""

    end: Fraction = Fraction(0)
    hidden: bool = False


def _stream(source: Path | str, clip: Any) -> Any:
    stream = video_stream(clip)
    if stream is None:
        raise UserError(f"{source} has no picture that can be decoded.", "Give a video file.")
    return stream


def _add_copy(source: Path | str, container: Any, stream: Any) -> Any:
    try:
        video = container.add_stream_from_template(stream, opaque=True)
    except ValueError as error:
        raise _not_held(source, stream) from error
    video.time_base = stream.time_base
    if tag := _TAGS.get(stream.codec_context.codec.canonical_name):
        video.codec_context.codec_tag = tag
    return video


def _begin(source: Path | str, container: Any, stream: Any) -> None:
    try:
        container.start_encoding()
    except ValueError as error:
        raise _not_held(source, stream) from error


def _not_held(source: Path | str, stream: Any) -> UserError:
    name = stream.codec_context.codec.canonical_name
    return UserError(f"{source} holds {name} video, which mp4 cannot hold.", _CONVERT)


def _timed_packets(source: Path | str, clip: Any, stream: Any, presented: _Presented) -> Iterator[Any]:
    """A stream's packets from second 0 on, each with its times; those after the last one that is shown are left out.

    Raises:
        UserError: frames are missing, have no times, or are shown in pieces out of the middle.
    """
    unit = stream.time_base
    origin = int(start_of(stream) / unit)
    step = frame_seconds(stream)
    after: list[Any] = []  # packets that are not shown; kept if one that is shown follows, and may be built on them
    discarded: list[int] = []
    latest = 0
    for packet in _ordered(source, clip, stream):
        packet.duration = packet.duration or round(step / unit)
        presented_seconds(source, packet, step)
        packet.pts, packet.dts = packet.pts - origin, packet.dts - origin
        after.append(packet)
        if packet.is_discard:
            continue
        latest = max(latest, packet.pts)
        presented.end = max(presented.end, (packet.pts + packet.duration) * unit)
        discarded += [other.pts for other in after if other.is_discard]
        yield from after
        after = []
    if "mp4" in format_names(clip) and stream.duration:
        missing = sum(entry.pos + entry.size > clip.size for entry in stream.index_entries)
        if missing:
            raise UserError(f"{source} is damaged: {missing} of {stream.frames} of its frames are cut off.", DAMAGED)
        promised = max(stream.duration * unit, latest * unit + Fraction(step))
        presented.hidden = presented.end > promised
        presented.end = min(presented.end, promised)
    if any(pts >= 0 and (pts + 1) * unit < presented.end for pts in discarded):
        raise UserError(f"{source} is put together from pieces by an edit list.", _CONVERT)
    presented.hidden = presented.hidden or any(pts >= 0 for pts in discarded)


def _ordered(source: Path | str, clip: Any, stream: Any) -> Iterator[Any]:
    """A stream's packets from its first key frame on, on one clock, with decoding times that rise."""
    tick = stream.time_base
    shift, last = 0, None
    for packet in _dated(source, clip, stream):
        if last is None and not packet.is_keyframe and not packet.is_discard:
            continue  # a recording that begins in the middle: there is nothing to build it on
        jump = 0 if last is None else (packet.dts + shift - last) * tick
        if restarts(clip, jump):
            shift = last + round(Fraction(frame_seconds(stream)) / tick) - packet.dts
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        if last is not None and packet.dts <= last:
            packet.dts = last + 1
        packet.pts = max(packet.pts, packet.dts)
        last = packet.dts
        yield packet


def _dated(source: Path | str, clip: Any, stream: Any) -> Iterator[Any]:
    """A stream's packets that hold a picture, each with its times; Matroska leaves out the first few decoding times."""
    step = round(Fraction(frame_seconds(stream)) / stream.time_base)
    early: list[Any] = []
    known = iter(display_times(source)) if in_coded_order(clip, stream) else None
    for packet in unpacked(stream, packets_of(clip, stream)):
        if not packet.size:
            continue  # a frame that the camera dropped, or the demuxer's end mark
        if known is not None:
            times = next(known, None)
            if times is None:
                continue  # nothing of it is shown: what some encoders put after two frames in one packet
            packet.pts, packet.dts = times
        early.append(packet)
        if packet.dts is None:
            continue
        for back, untimed in enumerate(reversed(early)):
            untimed.dts = packet.dts - back * step
            if untimed.pts is None:
                raise UserError(f"{source} has no timestamps.", _PACK)
        yield from early
        early = []
    if early:
        raise UserError(f"{source} has no timestamps.", _PACK)
