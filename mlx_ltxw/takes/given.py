"""A clip whose picture is kept: the size it is seen at, and its frames."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from mlx_ltxw.media.remux import check_remux
from mlx_ltxw.media.video import describe_picture, read_video
from mlx_ltxw.pipeline.geometry import LatentGrid
from mlx_ltxw.pipeline.request import Defaults, Request, Settings


def fit_to_clip(request: Request, defaults: Defaults, grid: LatentGrid) -> Request:
    """Sets the sizes the user left open from the clip: its shape at the model's usual number of pixels, its length.

    The frame rate stays the model's own; the picture itself is never re-encoded, only seen at this size.

    Raises:
        UserError: the clip cannot be read, has no picture, is too short, or cannot be given a new voice.
    """
    assert request.video is not None
    clip = describe_picture(request.video)
    check_remux(request.video)
    rate = request.frame_rate or defaults.frame_rate
    scale = math.sqrt(defaults.width * defaults.height / (clip.width * clip.height))
    chosen = {
        "width": max(1, round(clip.width * scale / grid.width)) * grid.width,
        "height": max(1, round(clip.height * scale / grid.height)) * grid.height,
        "frames": max(0, math.ceil((clip.seconds * rate - 1) / grid.frames)) * grid.frames + 1,
        "frame_rate": rate,
    }
    missing: dict[str, Any] = {name: value for name, value in chosen.items() if getattr(request, name) is None}
    return dataclasses.replace(request, **missing)


def given_frames(settings: Settings, grid: LatentGrid) -> np.ndarray:
    """The clip's frames (F, H, W, 3) uint8 at the run's size and rate; the last one fills the last latent frame."""
    assert settings.video is not None
    size = settings.frames, settings.frame_rate, settings.width, settings.height
    return read_video(settings.video, *size, hold=grid.frames)
