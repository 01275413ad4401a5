"""Sound in (any container that FFmpeg reads) and out (wav)."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import write_bytes
from mlx_ltxw.media.containers import DAMAGED, audio_stream, opened, start_of, video_stream
from mlx_ltxw.media.metadata import to_text, wav_chunk

LAYOUTS = {1: "mono", 2: "stereo"}
_RATES = range(1000, 768001)  # Hz; what lies outside was not recorded but misread


def as_waveform(waveform: np.ndarray, name: str = "The sound") -> np.ndarray:
    """(N,), (N, 1) or (N, 2) -> (N, 1) or (N, 2) fp32, checked; `name` is for the message.

    Raises:
        ValueError: another shape.
        UserError: samples that are not finite.
    """
    wave = np.asarray(waveform, np.float32)
    if wave.ndim == 1:
        wave = wave[:, None]
    if wave.ndim != 2 or wave.shape[1] not in (1, 2):
        raise ValueError(f"a waveform is (N,), (N, 1) or (N, 2), not {wave.shape}")
    if not np.isfinite(wave).all():
        raise UserError(
            f"{name} holds samples that are not finite numbers.",
            "What made it is damaged (weights or adapter, or the file itself); convert or download it again.",
        )
    return wave


def as_stereo(waveform: np.ndarray) -> np.ndarray:
    """`as_waveform`, always (N, 2): one channel goes to both sides at its own level."""
    wave = as_waveform(waveform)
    return np.ascontiguousarray(np.broadcast_to(wave, (len(wave), 2)))


def write_wav(
    path: Path | str,
    waveform: np.ndarray,
    rate: int = 48000,
    *,
    subtype: Literal["PCM_16", "FLOAT"] = "PCM_16",
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a stereo wav, whole or not at all.

    Args:
        waveform: (N, 2) in [-1, 1]; mono (N,) or (N, 1) is doubled. PCM_16 clips what lies outside.
        metadata: Stored as JSON in the file's comment (`metadata.read_metadata`).

    Raises:
        UserError: `path` cannot be written, or a sample is not finite.
    """
    import soundfile

    wave = as_stereo(waveform)
    if subtype == "PCM_16":
        wave = wave.clip(-1, 1)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV", subtype=subtype)
    data = buffer.getvalue()
    if metadata is not None:
        data += wav_chunk(to_text(metadata))
        data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]  # RIFF's own size
    write_bytes(path, data)


def to_frames(wave: np.ndarray, rate: int, start: int = 0) -> Iterator[Any]:
    """(N, 1 or 2) -> FFmpeg frames of at most 2^20 samples, counted from `start`; one frame holds at most 2 GB."""
    import av

    for at in range(0, len(wave), 1 << 20):
        planes = np.ascontiguousarray(wave[at : at + (1 << 20)].T, np.float32)
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=LAYOUTS[wave.shape[1]])
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        frame.pts = start + at
        yield frame


def resample(wave: np.ndarray, rate: int, target: int) -> np.ndarray:
    """(N, C) fp32 at `rate` -> (round(N * target / rate), C) fp32 at `target`, C = 1 or 2, by FFmpeg's swresample."""
    import av

    wave = np.asarray(wave, np.float32)
    if rate == target or not len(wave):
        return wave
    resampler = av.AudioResampler(format="fltp", layout=LAYOUTS[wave.shape[1]], rate=target)
    parts = [part.to_ndarray() for frame in (*to_frames(wave, rate), None) for part in resampler.resample(frame)]
    length = round(len(wave) * target / rate)
    if not parts:  # a few samples at a high rate are less than one at a low rate
        return np.zeros((length, wave.shape[1]), np.float32)
    out = np.concatenate(parts, axis=1).T[:length]
    return np.ascontiguousarray(np.pad(out, ((0, length - len(out)), (0, 0))))


def read_audio(
    path: Path | str, rate: int, channels: int = 2, *, start: float = 0.0, seconds: float | None = None
) -> np.ndarray:
    """The sound of a file, in step with its picture when it has one.

    Args:
        rate: Of the result, Hz.
        channels: 1 or 2; mono is doubled at its own level, more than two are mixed down.
        start: Seconds to leave out at the beginning.
        seconds: The most to return; all when None.

    Returns:
        (N, channels) fp32.

    Raises:
        UserError: no sound in it, or damaged; an mp4 also when it ends before its header says.
    """
    with opened(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise UserError(f"{path} has no sound that can be decoded.", "Give a file with an audio track.")
        # the second that counts as 0: the picture's first frame, else the sound's first sample
        origin = float(start_of(video_stream(container) or stream))
        source = int(stream.rate)
        if source not in _RATES:
            raise UserError(f"{path} is damaged: its sound claims {source} samples a second.", DAMAGED)
        stop = math.inf if seconds is None else origin + start + seconds
        if start > 1:
            container.seek(int((start - 0.5 + origin) * 1e6))  # half a second for the decoder to settle
        wave, first = _decode(container, stream, origin, stop)
        if first + len(wave) / source < stop:
            wave = _to_declared_end(path, container, stream, wave, first)
    late = first - origin - start  # seconds
    if late > 3600:
        raise UserError(f"{path} is damaged: its sound begins {late:.0f} s after its picture.", DAMAGED)
    wave = _shift(wave, round(late * source))
    wave = resample(wave if seconds is None else wave[: math.ceil(seconds * source)], source, rate)
    if seconds is not None:
        wave = wave[: round(seconds * rate)]
    return _in_channels(wave, channels)


def _in_channels(wave: np.ndarray, channels: int) -> np.ndarray:
    """(N, 1 or 2) as (N, channels): mono at its own level on both sides, stereo as its mean."""
    if wave.shape[1] == channels:
        return wave
    return np.repeat(wave, 2, axis=1) if channels == 2 else wave.mean(axis=1, keepdims=True)


def _decode(container: Any, stream: Any, origin: float, stop: float) -> tuple[np.ndarray, float]:
    """Decodes to `stop` or a little beyond -> ((N, 1 or 2) fp32, the second on the container's clock of its start)."""
    channels = min(stream.channels, 2)
    converter = _Converter(channels, stream.rate)
    parts: list[np.ndarray] = []
    first, count = None, 0
    for frame in container.decode(stream):
        if first is None:
            first = origin if frame.pts is None else float(frame.pts * frame.time_base)
        count += frame.samples
        parts += converter.convert(frame)
        if first + count / stream.rate > stop:
            break
    parts += converter.rest()
    wave = np.concatenate(parts) if parts else np.zeros((0, channels), np.float32)
    return wave, origin if first is None else first


class _Converter:
    """Frames to (N, channels) fp32 at one rate, also where a damaged or joined file changes either on its way."""

    def __init__(self, channels: int, rate: int) -> None:
        self.channels, self.rate = channels, rate
        self.source: tuple[str, str, int] | None = None
        self.resampler: Any = None

    def convert(self, frame: Any) -> list[np.ndarray]:
        import av

        done: list[np.ndarray] = []
        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        if source != self.source:
            done, self.source = self.rest(), source
            layout = LAYOUTS[min(len(frame.layout.channels), 2)]
            self.resampler = av.AudioResampler(format="fltp", layout=layout, rate=self.rate)
        frame.pts = None  # only the order counts from here on
        return done + self._arrays(frame)

    def rest(self) -> list[np.ndarray]:
        """What the resampler still holds."""
        return [] if self.resampler is None else self._arrays(None)

    def _arrays(self, frame: Any) -> list[np.ndarray]:
        return [_in_channels(part.to_ndarray().T, self.channels) for part in self.resampler.resample(frame)]


def _to_declared_end(path: Path | str, container: Any, stream: Any, wave: np.ndarray, first: float) -> np.ndarray:
    """Cuts the encoder's padding off the last block, and refuses a file that ends before its header says it does."""
    if stream.duration is None or "mp4" not in container.format.name.split(","):
        return wave  # other headers estimate, or FFmpeg corrects them by the file's size
    promised = float(start_of(stream) + stream.duration * stream.time_base) - first
    have = len(wave) / stream.rate
    if have < promised - 0.1:
        raise UserError(f"{path} is damaged: its sound ends after {have:.2f} of {promised:.2f} seconds.", DAMAGED)
    return wave[: max(0, round(promised * stream.rate))]


def _shift(wave: np.ndarray, samples: int) -> np.ndarray:
    """Silence before the sound (`samples` > 0), or its beginning cut off (< 0)."""
    return wave[-samples:] if samples < 0 else np.pad(wave, ((samples, 0), (0, 0)))
