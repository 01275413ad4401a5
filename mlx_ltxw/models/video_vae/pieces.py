"""A video that passes through the layers in pieces along time, so that memory does not grow with its length.

Each layer takes the pieces as they come and keeps the few frames that its next output still needs. The result is the
whole's, to the rounding of a device that computes another number of frames by another kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models.submissions import Submissions

BYTES = 24 << 20
"""Of a piece at most, unless a single frame is larger."""
WINDOW = 1
"""Pieces that layers have made and that may be unfinished at a time."""


class Piece(NamedTuple):
    """Consecutive frames (B, T, H, W, C), and whether they are the video's last."""

    frames: mx.array
    last: bool


Pieces = Iterator[Piece]


class Layer(nn.Module):
    """A layer that can take a video in pieces.

    Attributes:
        growth: How many times larger its output, or what it makes on the way, is than its input.
    """

    growth: float = 1

    def pieces(self, pieces: Pieces) -> Pieces:
        """What it makes of the pieces; may hold frames back until the last one."""
        raise NotImplementedError

    def __call__(self, x: mx.array) -> mx.array:
        """The whole video: (B, T, H, W, C) -> (B, T', H', W', C')."""
        return joined([piece.frames for piece in self.pieces(iter([Piece(x, True)]))])


class Waiting:
    """Frames of a residual branch that wait for the frames they are added to."""

    def __init__(self) -> None:
        self._frames: list[mx.array] = []

    def put(self, piece: Piece) -> Piece:
        """Remembers the frames; gives the piece back."""
        self._frames.append(piece.frames)
        return piece

    def take(self, count: int) -> mx.array:
        """The first `count` frames."""
        frames = joined(self._frames)
        self._frames = [] if frames.shape[1] == count else [kept(frames[:, count:])]
        return frames[:, :count]


def kept(frames: mx.array) -> mx.array:
    """Frames in memory of their own, which do not hold the larger array that they were a part of."""
    own = mx.contiguous(frames)
    mx.async_eval(own)
    return own


def joined(parts: list[mx.array]) -> mx.array:
    """One video of several in a row."""
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)


def frames_within(size: float) -> int:
    """How many frames a piece has at most, for the bytes of one."""
    return max(1, int(BYTES / size))


def gathered(pieces: Pieces) -> Pieces:
    """All of the video in one piece, for what needs all of it."""
    yield Piece(joined([piece.frames for piece in pieces]), True)


def cut(pieces: Pieces, growth: float = 1) -> Pieces:
    """Pieces of no more than `BYTES` where there are several frames, also after they have grown by a factor."""
    for frames, last in pieces:
        most = frames_within(growth * frames[:, :1].nbytes)
        count = frames.shape[1]
        parts = [(frames[:, i : i + most], last and i + most >= count) for i in range(0, count, most)]
        del frames
        while parts:
            yield Piece(*parts.pop(0))


def paired(pieces: Pieces) -> Pieces:
    """The video with its first frame twice, in pieces of an even number of frames."""
    held: list[mx.array] | None = None
    for frames, last in pieces:
        x = joined([frames[:, :1], frames] if held is None else [*held, frames])
        del frames
        count = x.shape[1] if last else x.shape[1] // 2 * 2
        held = [] if count == x.shape[1] else [kept(x[:, count:])]
        out = [x[:, :count]]
        del x
        if count:
            yield Piece(out.pop(), last)


def bounded(pieces: Pieces, submissions: Submissions) -> Pieces:
    """Hands each piece to the device, of which no more than the submissions' window are unfinished."""

    def add(piece: Piece) -> Piece:
        submissions.add(piece.frames)
        return piece

    return map(add, pieces)
