"""A linear's result among others', where several linears of one input are one product."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx


class Columns(NamedTuple):
    """Some columns of a wider array. Kernels of ours read them where they are; for MLX's they are a view (`apart`).

    Attributes:
        whole: (B, T, W).
        start, width: Of the columns.
    """

    whole: mx.array
    start: int
    width: int

    def apart(self) -> mx.array:
        """(B, T, width)."""
        return self.whole[..., self.start : self.start + self.width]

    @property
    def dtype(self) -> mx.Dtype:
        return self.whole.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.whole.shape[:-1], self.width)


Projection = mx.array | Columns
"""A linear's result: an array of its own, or columns of one."""


def apart(part: Projection) -> mx.array:
    """As an array."""
    return part if isinstance(part, mx.array) else part.apart()


def located(part: Projection) -> tuple[mx.array, int, int]:
    """The array that it lies in, how many numbers a row of that has, and which of them is the first."""
    if isinstance(part, Columns):
        return part.whole, part.whole.shape[-1], part.start
    batch, tokens = part.shape[:2]
    return part, part.size // (batch * tokens), 0


def aligned(part: Projection, numbers: int) -> bool:
    """Whether rows begin at whole groups of so many numbers."""
    _, stride, first = located(part)
    return stride % numbers == 0 and first % numbers == 0
