"""Sizes in pixels, frames and seconds, and where each latent token lies in them.

Source: `ltx_core/types.py`, `components/patchifiers.py` (version 1.2.0: positions in fp32).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlx_ltxw.errors import UserError


@dataclass(frozen=True)
class LatentGrid:
    """How many pixels, frames and seconds one latent token stands for; read from the two VAEs' configs.

    Attributes:
        frames, height, width: Of one video token, in frames and pixels (8, 32, 32 in LTX-2.3).
        mel_seconds: One mel frame (0.01 s).
        mel_frames: Mel frames of one audio token (4).
    """

    frames: int
    height: int
    width: int
    mel_seconds: float
    mel_frames: int

    @property
    def audio_rate(self) -> float:
        """Audio tokens a second (25)."""
        return 1 / (self.mel_seconds * self.mel_frames)


@dataclass(frozen=True)
class Geometry:
    """The size of one clip.

    Attributes:
        width, height: Pixels.
        frames: Video frames.
        frame_rate: Frames a second.
        grid: The model's latent grid.
    """

    width: int
    height: int
    frames: int
    frame_rate: float
    grid: LatentGrid

    @property
    def seconds(self) -> float:
        return self.frames / self.frame_rate

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Video tokens along time, height and width."""
        return (
            (self.frames - 1) // self.grid.frames + 1,
            self.height // self.grid.height,
            self.width // self.grid.width,
        )

    @property
    def video_tokens(self) -> int:
        frames, height, width = self.latent_shape
        return frames * height * width

    @property
    def audio_tokens(self) -> int:
        """`round(seconds * 25)`, with Python's rounding as in the reference."""
        return round(self.seconds * self.grid.audio_rate)

    def check(self) -> None:
        """Refuses a size the model has no tokens for, and names the nearest it has.

        Raises:
            UserError: a size is no multiple of the latent grid, or there is no sound at all.
        """
        grid = self.grid
        faults = []
        for name, value, step, rest in (
            ("width", self.width, grid.width, 0),
            ("height", self.height, grid.height, 0),
            ("frames", self.frames, grid.frames, 1),
        ):
            if value < step * (1 - rest) + rest or value % step != rest % step:
                faults.append(f"{name} {value} (nearest: {_nearest(value, step, rest)})")
        if faults:
            raise UserError(
                f"The model cannot make {', '.join(faults)}.",
                f"Width is a multiple of {grid.width}, height of {grid.height}, frames a multiple of {grid.frames} "
                "plus 1.",
            )
        if not 0 < self.frame_rate <= 240:
            raise UserError(f"A frame rate of {self.frame_rate:g} is not possible.", "Give one above 0, up to 240.")
        if self.audio_tokens < 1:
            raise UserError(
                f"{self.frames} frames at {self.frame_rate:g} a second are too short for any sound.",
                "Ask for more frames or a lower frame rate.",
            )

    def video_positions(self) -> np.ndarray:
        """Token midpoints (1, 3, T) fp32: seconds, then height and width in pixels; time slowest.

        The first latent frame covers one video frame, every further one eight.
        """
        step = self.grid.frames
        frames, height, width = self.latent_shape
        start = np.maximum(np.arange(frames) * step - (step - 1), 0)
        end = np.arange(frames) * step + 1
        rate = np.float32(self.frame_rate)
        seconds = (start.astype(np.float32) / rate + end.astype(np.float32) / rate) / np.float32(2)
        rows = (np.arange(height, dtype=np.float32) + 0.5) * self.grid.height
        columns = (np.arange(width, dtype=np.float32) + 0.5) * self.grid.width
        mesh = np.meshgrid(seconds, rows, columns, indexing="ij")
        return np.stack([axis.reshape(-1) for axis in mesh])[None].astype(np.float32)

    def audio_positions(self) -> np.ndarray:
        """Token midpoints (1, 1, T) fp32 in seconds: the first covers one mel frame, every further one four.

        Rounded to fp32 once: an error of one unit in the last place becomes 1e-3 rad in the highest rotary frequency.
        """
        step = self.grid.mel_frames
        index = np.arange(self.audio_tokens)
        start = (np.maximum(index * step - (step - 1), 0) * self.grid.mel_seconds).astype(np.float32)
        end = ((index * step + 1) * self.grid.mel_seconds).astype(np.float32)
        return ((start + end) / np.float32(2))[None, None]


def _nearest(value: int, step: int, rest: int) -> str:
    below = max((value - rest) // step, 1 - rest) * step + rest
    above = below + step
    return str(below) if value <= below else f"{below} or {above}"
