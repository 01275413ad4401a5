"""Sound in (any container that FFmpeg reads) and out (wav)."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import write_bytes
from mlx_ltxw.media.containers import SOUND, opened
from mlx_ltxw.media.metadata import to_text, wav_chunk
from mlx_ltxw.media.resample import resample as resample
from mlx_ltxw.media.resample import resample_blocks
from mlx_ltxw.media.sound import LAYOUTS as LAYOUTS
from mlx_ltxw.media.sound import in_channels, sound_of


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


def read_audio(
    path: Path | str, rate: int, channels: int = 2, *, start: float = 0.0, seconds: float | None = None
) -> np.ndarray:
    """The sound of a file, in step with its picture when it has one.

    Args:
        rate: Of the result, Hz; see `resample`.
        channels: 1 or 2; mono is doubled at its own level, more than two are mixed down.
        start: Seconds to leave out at the beginning.
        seconds: The most to return; all when None.

    Returns:
        (N, channels) fp32.

    Raises:
        UserError: no sound in it, or damaged; an mp4 also when it ends before its header says.
    """
    blocks = list(audio_blocks(path, rate, channels, start=start, seconds=seconds))
    return np.concatenate(blocks) if blocks else np.zeros((0, channels), np.float32)


def audio_blocks(
    path: Path | str, rate: int, channels: int = 2, *, start: float = 0.0, seconds: float | None = None
) -> Iterator[np.ndarray]:
    """What `read_audio` returns, in blocks of some seconds: an hour takes no more memory than a minute."""
    with opened(path, SOUND) as container:
        yield from blocks_of(path, container, rate, channels, start, seconds)


def blocks_of(
    path: Path | str,
    container: Any,
    rate: int | None,
    channels: int = 2,
    start: float = 0.0,
    seconds: float | None = None,
) -> Iterator[np.ndarray]:
    """What `audio_blocks` gives, of a container that is open and was not read yet; rate None is the file's own."""
    source, _, blocks = sound_of(path, container, start, seconds)
    rate = rate or source
    left = None if seconds is None else round(seconds * rate)
    for block in resample_blocks((in_channels(b, channels) for b in blocks), source, rate, channels):
        yield block[:left]
        left = None if left is None else max(0, left - len(block))
