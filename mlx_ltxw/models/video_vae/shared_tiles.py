"""Tiles of one picture, decoded by several machines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_ltxw.world import World


@dataclass(frozen=True)
class Span:
    """One tile along one axis.

    Args:
        start: First latent.
        end: One past the last latent.
        out: First output frame, row or column.
        weights: Blend weight of each output element; over all spans of an axis they add up to one.
    """

    start: int
    end: int
    out: int
    weights: list[float]

    @property
    def out_end(self) -> int:
        """One past the last output element."""
        return self.out + len(self.weights)


Tile = tuple[Span, Span, Span]
"""Along time, height and width."""


def decoded_by(
    world: World, tiles: Sequence[Tile], decode: Callable[[Tile], Iterator[mx.array]], dtype: mx.Dtype
) -> Iterator[tuple[Tile, Iterable[mx.array]]]:
    """Every tile, in order, with its pixels (1, f, h, w, 3) in pieces.

    Several machines take turns: each decodes one tile of as many as there are machines, and gives it to the leading
    one, which then holds so many. A single tile, or the run of a single machine, is decoded piece by piece.

    Args:
        world: The machines; all but the leading one get nothing.
        tiles: In the order in which they are put together.
        decode: Gives one tile's pieces, evaluated.
        dtype: Of the pieces.
    """
    if world.size == 1 or len(tiles) == 1:
        if world.leads:
            yield from ((tile, decode(tile)) for tile in tiles)
        return
    for start in range(0, len(tiles), world.size):
        turn = tiles[start : start + world.size]
        shapes = [(1, *(len(span.weights) for span in tile), 3) for tile in turn]
        longest = max(map(math.prod, shapes))
        pixels = mx.zeros(0, dtype)
        if world.rank < len(turn):
            pixels = mx.concatenate(list(decode(turn[world.rank])), axis=1).reshape(-1)
        pixels = mx.concatenate([pixels, mx.zeros(longest - pixels.size, dtype)])
        mx.eval(pixels)
        with world.pulse:
            gathered = world.gather(pixels)
            mx.eval(gathered)
        del pixels
        if world.leads:
            for number, (tile, shape) in enumerate(zip(turn, shapes, strict=True)):
                yield tile, [gathered[number, : math.prod(shape)].reshape(shape)]
