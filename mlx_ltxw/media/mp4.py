"""Mp4 files out: H.264 and AAC, frame by frame, in exact step."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import replacing, write_errors
from mlx_ltxw.machine import has_avx512
from mlx_ltxw.media.audio import as_stereo, to_frames
from mlx_ltxw.media.copy_sound import SoundCopy, copyable
from mlx_ltxw.media.metadata import KEY, to_text

logger = logging.getLogger(__name__)

AUDIO_RATE = 48000
_AUDIO_BITS = 256_000  # a second; a whisper is noise, which takes AAC more bits than voiced speech
_BT709, _LIMITED = 1, 1  # code points of ITU-T H.273, and of FFmpeg's ranges
_CONTAINER = {
    "movflags": "+faststart",  # the index in front, so that a browser plays at once
    "max_interleave_delta": "0",  # the sound may come after the last frame and still lies between the pictures
    "movie_timescale": "240000",  # a whole number of ticks per sample and per frame (24, 25, 30, x/1001)
}


def frame_rate(value: float | Fraction) -> Fraction:
    """The exact rate meant by a rounded one: 23.976 -> 24000/1001, 29.97 -> 30000/1001, 24 -> 24.

    Raises:
        UserError: not a positive finite number.
    """
    if not 0 < value < float("inf"):
        raise UserError(f"{value} is not a frame rate.", "Give frames a second, for example 24 or 29.97.")
    if isinstance(value, Fraction):
        return value
    ntsc = Fraction(round(value) * 1000, 1001)
    if value != round(value) and abs(value - ntsc) < 0.005:
        return ntsc
    return Fraction(value).limit_denominator(1001)


class Mp4Writer:
    """What `open_mp4` gives: takes frames as they are made, and the sound once, in any order."""

    def __init__(
        self, container: Any, video: Any, audio: list[Any], path: Path, copied: SoundCopy | None = None
    ) -> None:
        self.count = 0  # frames so far
        self._step = 1 / Fraction(video.codec_context.framerate)  # seconds
        self._container, self._video, self._audio, self._path = container, video, audio, path
        self._waveforms: dict[int, np.ndarray] = {}
        self._copied = copied

    def frames(self, chunk: np.ndarray) -> None:
        """Appends frames, (f, height, width, 3) uint8 RGB.

        Raises:
            UserError: the file cannot be written.
        """
        import av

        size = (self._video.height, self._video.width, 3)
        if chunk.dtype != np.uint8 or chunk.shape[1:] != size:
            raise ValueError(f"frames are (f, {size[0]}, {size[1]}, 3) uint8, not {chunk.shape} {chunk.dtype}")
        for picture in chunk:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if self._video.pix_fmt == "yuv420p":
                frame = _to_yuv(frame)
            frame.time_base = self._step
            frame.pts = self.count
            self.count += 1
            with write_errors(self._path):
                self._container.mux(self._video.encode(frame))

    def audio(self, waveform: np.ndarray, track: int = 0) -> None:
        """Sets the whole sound of a track, (N, 2) fp32 in [-1, 1] at 48 kHz; of no account where a file's is copied."""
        if not self._audio and self._copied is None:
            raise ValueError("this file was opened without sound")
        self._waveforms[track] = as_stereo(waveform)

    def finish(self) -> None:
        """Writes what is left; `open_mp4` calls it."""
        if not self.count or not self._waveforms.keys() >= set(range(len(self._audio))):
            raise ValueError("an mp4 needs frames, and its sound when it was opened with sound")
        with write_errors(self._path):
            self._container.mux(self._video.encode(None))
            if self._copied is not None:
                self._copied.mux(self._container, self.count * self._step)
            for track, audio in enumerate(self._audio):
                mux_audio(self._container, audio, self._waveforms[track], self.count * self._step)
            self._container.close()


@contextmanager
def open_mp4(
    path: Path | str,
    width: int,
    height: int,
    rate: float | Fraction,
    *,
    sound: bool = True,
    tracks: Sequence[str] = ("",),
    default: int = 0,
    metadata: Mapping[str, Any] | None = None,
    crf: int = 18,
    lossless: bool = False,
    sound_from: Path | str | None = None,
) -> Iterator[Mp4Writer]:
    """Opens an mp4 to be written while its frames are made; complete under `path` when the `with` block ends.

    H.264 (libx264, yuv420p, BT.709 limited range) and AAC at 48 kHz. The sound is padded with silence, or cut, to the
    picture's exact length. After an exception there is no file.

    Args:
        width, height: Even numbers of pixels.
        rate: Frames a second (see `frame_rate`).
        sound: Whether there is a sound track; if so `Mp4Writer.audio` must be called, for each of `tracks`.
        tracks: Titles of the sound tracks; an empty one is none.
        default: The track that a player takes.
        metadata: Stored as JSON in the comment (`metadata.read_metadata`).
        crf: x264's constant quality; 18 is held to be visually lossless.
        lossless: RGB without loss instead; few players show it.
        sound_from: A file whose sound is copied packet by packet, from second 0 of its own on, where mp4 holds its
            codec and it begins there; else `Mp4Writer.audio`'s is encoded.

    Raises:
        UserError: `path` cannot be written.
    """
    path = Path(path)
    with replacing(path) as partial, created(path, partial, metadata) as container, copyable(sound_from) as copy:
        codec, pixels = ("libx264rgb", "rgb24") if lossless else ("libx264", "yuv420p")
        options = {"crf": "0" if lossless else str(crf), **_repeatable()}
        video = container.add_stream(codec, rate=frame_rate(rate), options=options)
        video.width, video.height, video.pix_fmt = width, height, pixels
        if not lossless:
            context = video.codec_context
            context.color_primaries = context.color_trc = context.colorspace = _BT709
            context.color_range = _LIMITED
        if copy is not None:
            copy.add_to(container)
        audio = add_tracks(container, tracks, default) if sound and copy is None else []
        writer = Mp4Writer(container, video, audio, path, copy)
        yield writer
        writer.finish()


def write_mp4(
    path: Path | str,
    chunks: Iterable[np.ndarray],
    rate: float | Fraction,
    waveform: np.ndarray | None,
    *,
    metadata: Mapping[str, Any] | None = None,
    lossless: bool = False,
) -> None:
    """`open_mp4` for frames and sound that are at hand; `waveform` None gives a file without sound."""
    chunks = iter(chunks)
    first = next(chunks)
    height, width = first.shape[1:3]
    sound = waveform is not None
    with open_mp4(path, width, height, rate, sound=sound, metadata=metadata, lossless=lossless) as clip:
        clip.frames(first)
        for chunk in chunks:
            clip.frames(chunk)
        if waveform is not None:
            clip.audio(waveform)


@contextmanager
def created(path: Path, partial: Path, metadata: Mapping[str, Any] | None) -> Iterator[Any]:
    """A new mp4 container in `partial`; the block closes it itself when all went well."""
    import av

    with write_errors(path):
        container = av.open(f"file:{partial}", "w", format="mp4", options=_CONTAINER)
    if metadata is not None:
        container.metadata[KEY] = to_text(metadata)
    try:
        yield container
    except BaseException:
        with suppress(Exception):  # its end cannot be written either; the first error is the one to tell
            container.close()
        raise


def add_audio(container: Any, rate: int = AUDIO_RATE) -> Any:
    """A track for `mux_audio`."""
    audio = container.add_stream("aac", rate=rate, layout="stereo")
    audio.bit_rate = _AUDIO_BITS
    return audio


def add_tracks(container: Any, titles: Sequence[str], default: int = 0) -> list[Any]:
    """Several tracks for `mux_audio`, of which a player takes `default` and offers the others by their titles."""
    from av.stream import Disposition

    tracks = [add_audio(container) for _ in titles]
    for number, (track, title) in enumerate(zip(tracks, titles, strict=True)):
        if title:
            track.metadata["title"] = track.metadata["handler_name"] = title
        track.disposition = Disposition.default if number == default else Disposition(0)
    return tracks


def as_coded(waveform: np.ndarray, rate: int = AUDIO_RATE) -> np.ndarray:
    """(N, 1) or (N, 2) fp32 as it comes back out of an mp4's AAC track, coding delay and padding included."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="adts") as container:
        audio = add_audio(container, rate)
        for frame in to_frames(as_stereo(waveform), rate):
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    buffer.seek(0)
    with av.open(buffer) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1).T


def mux_audio(container: Any, audio: Any, waveform: np.ndarray, length: Fraction) -> None:
    """Encodes (N, 2), fitted to `length` seconds."""
    samples = round(length * AUDIO_RATE)
    if len(waveform) > samples:
        logger.info("the sound is %.3f s longer than the picture and is cut", len(waveform) / AUDIO_RATE - length)
    for at in range(0, samples, AUDIO_RATE):  # silence is made by the second: a picture may last for hours
        block = waveform[at : min(at + AUDIO_RATE, samples)]
        block = np.pad(block, ((0, min(AUDIO_RATE, samples - at) - len(block)), (0, 0)))
        for frame in to_frames(block, AUDIO_RATE, at):
            container.mux(audio.encode(frame))
    container.mux(audio.encode(None))


def _repeatable() -> dict[str, str]:
    """Options of x264 that make the same file of the same frames every time.

    With AVX-512 its macroblock tree now and then weighs blocks otherwise: on a busy machine, of one noisy clip encoded
    again and again, one file in a hundred differed. With AVX2, 800 of 800 were the usual one.
    """
    return {"x264-params": "asm=avx2"} if has_avx512() else {}


def _to_yuv(frame: Any) -> Any:
    """RGB -> yuv420p by BT.709's matrix in limited range; FFmpeg alone would take BT.601's."""
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    return frame.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
    )
