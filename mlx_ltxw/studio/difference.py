"""How far the pictures of two takes are from each other, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.video import describe_picture, read_video

_AT_ONCE = 48  # frames
_HINT = "Choose two clips with pictures."


@dataclass(frozen=True)
class Difference:
    """Of two pictures, over the frames that both have.

    Attributes:
        mean, most: Of each frame, the mean and the greatest |a - b| of 8-bit RGB values.
        frame_rate: Frames a second.
    """

    mean: tuple[float, ...]
    most: tuple[int, ...]
    frame_rate: float


def difference(one: Path, other: Path) -> Difference | None:
    """Compares two files' pictures; None where their sizes or frame rates differ.

    Raises:
        UserError: a file cannot be read, or has no picture.
    """
    pictures = [describe_picture(path) for path in (one, other)]
    rates = [probe(path).fps for path in (one, other)]
    first, second = pictures
    if (first.width, first.height) != (second.width, second.height) or rates[0] != rates[1] or not rates[0]:
        return None
    count = round(min(first.seconds, second.seconds) * float(rates[0]))
    if not count:
        raise UserError(f"{one} and {other} share no frame.", _HINT)
    read = [_frames(path, count, float(rates[0]), first.width, first.height) for path in (one, other)]
    mean, most = [], []
    for a, b in zip(*read, strict=True):
        apart = np.abs(a.astype(np.int16) - b)
        mean += apart.mean(axis=(1, 2, 3)).tolist()
        most += apart.max(axis=(1, 2, 3)).tolist()
    return Difference(tuple(mean), tuple(most), float(rates[0]))


def _frames(path: Path, count: int, rate: float, width: int, height: int) -> Iterator[np.ndarray]:
    """Blocks (F, H, W, 3) uint8, so that long clips take little memory."""
    for start in range(0, count, _AT_ONCE):
        yield read_video(path, min(_AT_ONCE, count - start), rate, width, height, start=start / rate, hold=1)
