"""Which machine computes which guidance passes of a step, so that all are done at about the same time.

Passes that read the same prompt are one until they leave out something else (`Walk.together`), so what counts are runs
of a block. LTX-2.3's four passes are 48 (plain and perturbed together), 20 (perturbed, from block 28 on), 48 (negative)
and 48 (without the other modality) such runs. Two machines cannot share these out evenly unless a pass changes hands:
one begins it, and when the other has done its own, that one ends it. Then each does 82 of the 164.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlx_ltxw.models.transformer.inputs import BlockSkips
from mlx_ltxw.pipeline.guidance import Pass

_WORTH = 0.03
"""Of the time without, that a handover must save."""


@dataclass(frozen=True)
class Handover:
    """A pass that one machine begins and another ends.

    Attributes:
        name: The pass.
        giver, taker: Ranks.
        at: Blocks that the giver does.
        pause: After how many blocks of its other passes the giver hands over, when the taker has done its own.
    """

    name: str
    giver: int
    taker: int
    at: int
    pause: int


@dataclass(frozen=True)
class PassShares:
    """Who does what.

    Attributes:
        owners: Of each pass, in the order of the passes, the rank that ends it.
        runs: Runs of a block that the busiest machine does.
        handover: A pass that changes hands; None for none.
    """

    owners: tuple[int, ...]
    runs: int
    handover: Handover | None = None


def block_runs(passes: Iterable[Pass], layers: int) -> list[BlockSkips]:
    """Every run of a block that several passes on one machine come to: what it leaves out."""
    seen: dict[object, BlockSkips] = {}
    for one in passes:
        history: tuple[BlockSkips, ...] = ()
        for index in range(layers):
            history = (*history, one.skips.of(index))
            seen[one.negative, history] = history[-1]
    return list(seen.values())


@functools.lru_cache(64)
def pass_shares(passes: tuple[Pass, ...], layers: int, machines: int) -> PassShares:
    """Shares out the passes of a step.

    Args:
        passes: Of the step.
        layers: Transformer blocks.
        machines: How many.
    """
    ranks = range(min(machines, len(passes)))
    best = min(
        (_shares(passes, (0, *rest), layers) for rest in itertools.product(ranks, repeat=len(passes) - 1)),
        key=lambda one: one.runs,
    )
    if machines != 2 or len(passes) < 2:
        return best
    handed = min(
        (
            _handed(passes, (0, *rest), layers, number)
            for rest in itertools.product(ranks, repeat=len(passes) - 1)
            for number in range(len(passes))
        ),
        key=lambda one: one.runs,
    )
    return handed if handed.runs < best.runs * (1 - _WORTH) else best


def _shares(passes: Sequence[Pass], owners: tuple[int, ...], layers: int) -> PassShares:
    groups = [[one for one, owner in zip(passes, owners, strict=True) if owner == rank] for rank in set(owners)]
    return PassShares(owners, max(len(block_runs(group, layers)) for group in groups))


def _handed(passes: Sequence[Pass], owners: tuple[int, ...], layers: int, number: int) -> PassShares:
    """Two machines, of which the owner of a pass gets it from the other: after as many blocks as make them even."""
    taker = owners[number]
    mine = [one for i, one in enumerate(passes) if i != number and owners[i] == taker]
    others = [one for i, one in enumerate(passes) if owners[i] != taker]
    of_taker, of_giver = len(block_runs(mine, layers)), len(block_runs(others, layers))
    at = max(0, min(layers, of_taker, (of_taker + layers - of_giver) // 2))
    if at == 0 or not others:
        return _shares(passes, owners, layers)
    counts = [len(block_runs(others, stop)) for stop in range(layers + 1)]
    pause = max(stop for stop, count in enumerate(counts) if count <= max(0, of_taker - at))
    handover = Handover(passes[number].name, 1 - taker, taker, at, pause)
    return PassShares(owners, max(of_giver + at, of_taker + layers - at), handover)
