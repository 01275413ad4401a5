"""One clip: a stretch of a media file, conformed to the geometry that is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.sound import in_channels, opened_sound
from mlx_ltxw.media.video import picture_seconds as picture_seconds
from mlx_ltxw.media.video import read_video
from mlx_ltxw.pipeline.geometry import Geometry

_FADE = 0.005  # seconds; where the sound of a neighbouring clip is cut off


@dataclass(frozen=True)
class TrainingClip:
    """What one training example is made of.

    Attributes:
        path: The media file.
        name: For messages: the path within the data, and the seconds if the file was cut.
        caption: In the adapter's grammar.
        geometry: The size that pictures and sound are conformed to.
        window: The second of the file at which the clip begins; it lasts `geometry.seconds`.
        start, end: Sound is heard between these seconds of the file; in the rest of the window there is silence.
        picture: Whether the file's picture belongs to the clip.
        voice: Whose voice it is, where that is known.
    """

    path: Path
    name: str
    caption: str
    geometry: Geometry
    window: float
    start: float
    end: float
    picture: bool
    voice: str | None = None


def held_frames(geometry: Geometry) -> int:
    """How many frames a picture may lack at its end, which its last frame then fills: one latent frame."""
    return geometry.grid.frames


def read_sound(clip: TrainingClip, rate: int) -> np.ndarray:
    """The clip's sound, mono doubled, with silence where the file has ended or is not to be heard.

    Returns:
        (ceil(seconds * rate), 2) fp32.

    Raises:
        UserError: the file cannot be read.
    """
    return _in_window(
        clip, read_audio(clip.path, rate, 2, start=clip.window, seconds=_samples(clip, rate) / rate), rate
    )


def read_own_sound(clip: TrainingClip) -> tuple[np.ndarray, int]:
    """As `read_sound`, at the file's own rate, which is the second result."""
    with opened_sound(clip.path, clip.window, clip.geometry.seconds) as (rate, _, blocks):
        wave = np.concatenate([np.zeros((0, 2), np.float32), *(in_channels(block, 2) for block in blocks)])
    return _in_window(clip, wave, rate), rate


def _samples(clip: TrainingClip, rate: int) -> int:
    return -int(-clip.geometry.seconds * rate // 1)


def _in_window(clip: TrainingClip, wave: np.ndarray, rate: int) -> np.ndarray:
    """(N, 2) from the window's first sample on -> (ceil(seconds * rate), 2), silent where the clip is not heard."""
    samples = _samples(clip, rate)
    wave = np.pad(wave[:samples], ((0, max(0, samples - len(wave))), (0, 0)))
    first = (clip.start - clip.window) * rate
    last = (clip.end - clip.window) * rate
    if first <= 0 and last >= samples:
        return wave
    at = np.arange(samples, dtype=np.float64)
    outside = np.maximum(first - at, at - last).clip(0)  # fading there leaves the clip's own sound as it is
    gain = (1 - outside / (_FADE * rate)).clip(0)
    return wave * gain[:, None].astype(np.float32)


def read_picture(clip: TrainingClip) -> np.ndarray:
    """The clip's frames; a picture that ends up to one latent frame early holds its last frame.

    Returns:
        (frames, height, width, 3) uint8.

    Raises:
        UserError: the file cannot be read, or its picture is too short.
    """
    size = clip.geometry
    return read_video(
        clip.path, size.frames, size.frame_rate, size.width, size.height, start=clip.window, hold=held_frames(size)
    )
