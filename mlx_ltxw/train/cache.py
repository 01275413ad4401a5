"""Latents and text contexts of every clip, made once and kept as one safetensors file each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

if TYPE_CHECKING:
    from mlx_ltxw.train.dataset import Clip
    from mlx_ltxw.weights.model_dir import ModelDir


@dataclass(frozen=True)
class CachedClip:
    """One training example; its arrays are read from the file when they are first used.

    Attributes:
        key: Hash of the clip's content, its geometry and the model.
        name: The file it came from, for messages.
        caption: As the text encoder read it.
        width, height, frames, frame_rate: Geometry of the clip.
        video: (Tv, C) fp32 normalised clean video tokens; None for sound alone.
        audio: (Ta, C) fp32 normalised clean audio tokens.
        video_context: (S, Dv) after the connectors.
        audio_context: (S, Da) after the connectors.
    """

    key: str
    name: str
    caption: str
    width: int
    height: int
    frames: int
    frame_rate: float
    video: mx.array | None
    audio: mx.array
    video_context: mx.array
    audio_context: mx.array


def build_cache(
    clips: Sequence[Clip], model: ModelDir, folder: Path, progress: Callable[[int], object] = lambda _: None
) -> list[Path]:
    """(being written)"""
    raise NotImplementedError


def load_clip(path: Path) -> CachedClip:
    """(being written)"""
    raise NotImplementedError
