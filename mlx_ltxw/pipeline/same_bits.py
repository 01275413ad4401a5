"""How many tokens a machine must compute so that each has the bits that it has among all of them.

On a CPU the way in which a product is computed hangs on how many rows it has: OpenBLAS has kernels of their own for
small matrices (with AVX-512 below 1200 numbers of a result, or a million multiplications), and packed weights are
unpacked for many rows and not for few. Sums in another order differ in their last bits, which guidance and steps
enlarge, most of all in a trained model. Which sizes are alike is not looked up but tried, with the first block.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from mlx_ltxw.machine import on_cpu
from mlx_ltxw.models.transformer import DIRECT, Forward, Modality
from mlx_ltxw.models.transformer.inputs import own_tokens
from mlx_ltxw.models.transformer.spread import Spread
from mlx_ltxw.world import ALONE, Turns

_MANY = 2048
"""Tokens from which on no product is small."""


class _Recorded(Spread):
    """All tokens on one machine: keeps what would have been gathered."""

    def __init__(self, tokens: int) -> None:
        super().__init__(Turns(ALONE), tokens)
        self.gathered: list[mx.array] = []

    def whole(self, x: mx.array) -> mx.array:
        self.gathered.append(x)
        return x


class _Replayed(Spread):
    """Some tokens, that take what was kept of all for what they gather."""

    def __init__(self, turns: Turns, kept: _Recorded, least: int) -> None:
        super().__init__(turns, kept.tokens, least)
        self._left = iter(kept.gathered)

    def whole(self, x: mx.array) -> mx.array:
        return next(self._left)


def tries(tokens: int, machines: int) -> bool:
    """Whether a machine's share of so many tokens is so small that it computes a block of all of them once."""
    return on_cpu() and tokens // machines < _MANY


def least_alike(turns: Turns, video: Modality, forward: Callable[[Modality], Forward]) -> int:
    """The least number of tokens, at least its own, with which this machine's have the bits that they have among all.

    On other devices than a CPU its own: there the choice is between whole tiles of the same order of sums, or costs
    more than the last bits are worth.

    Args:
        turns: The machines.
        video: All tokens, as the first forward takes them.
        forward: Describes that forward, of all or of some.
    """
    every = _Recorded(video.latent.shape[1])
    low, high = Spread(turns, every.tokens).counts[turns.world.rank], every.tokens
    if not tries(every.tokens, turns.world.size):
        return low
    block = forward(video).blocks[0]

    def velocity(spread: Spread) -> mx.array:
        described = forward(own_tokens(video, spread))._replace(blocks=[block])
        made: mx.array = described.alone(DIRECT)[0]
        return made

    whole = velocity(every)

    def alike(least: int) -> bool:
        some = _Replayed(turns, every, least)
        return bool(mx.array_equal(velocity(some), whole[:, some.window]))

    if alike(low):
        return low
    while high - low > 1:  # `high` is alike, `low` is not
        between = (low + high) // 2
        low, high = (low, between) if alike(between) else (between, high)
    return high
