"""The adapter that a run starts from: a fresh one, or one that was trained before."""

from __future__ import annotations

import mlx.core as mx

from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
from mlx_ltxw.adapter.deltas import LowRank
from mlx_ltxw.adapter.formats import Adapter, read
from mlx_ltxw.adapter.placing import place
from mlx_ltxw.adapter.source import locate
from mlx_ltxw.errors import UserError
from mlx_ltxw.models.transformer import Transformer
from mlx_ltxw.printing import some
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.gradient.fresh import fresh_adapter
from mlx_ltxw.tree import linears
from mlx_ltxw.weights.manifest import sha256 as hash_of


def initial_adapter(base: Transformer, config: TrainConfig) -> tuple[Adapter, tuple[str, ...], str]:
    """The adapter before the first step.

    One that was trained before makes exactly the change that it made there: its factors are the first rows of A and
    columns of B, the rest of A is drawn and the rest of B is zero; the ratio of the two scales goes into B.

    Args:
        base: The transformer.
        config: The run's training options.

    Returns:
        The adapter, what is to be known about it, and the file's sha256 (empty for a fresh one).

    Raises:
        UserError: the adapter is no LoRA, has a larger rank, or changes what this run does not train.
    """
    fresh = fresh_adapter(base, config)
    if config.init_adapter is None:
        return fresh, (), ""
    located = locate(config.init_adapter, BUILTIN_ADAPTERS)
    given = read(located.path, linears(base), located.config, located.name)
    placement = place(given, base)
    notes = list(given.notes)
    if placement.left_out:
        count = len(placement.left_out)
        notes.append(f"{count} modules of {given.name} read the video and are left out; train with pictures to keep.")
    _check(given, placement.placed, fresh, config)
    deltas = dict(fresh.deltas)
    for path in placement.placed:
        delta, drawn = given.deltas[path], deltas[path]
        assert isinstance(delta, LowRank)
        assert isinstance(drawn, LowRank)
        a = mx.concatenate([delta.a.astype(mx.float32), drawn.a[delta.rank :]])
        b = mx.concatenate([delta.b.astype(mx.float32) * (delta.scale / drawn.scale), drawn.b[:, delta.rank :]], axis=1)
        deltas[path] = LowRank(a, b, drawn.scale)
    if untouched := len(deltas) - len(placement.placed):
        notes.append(
            f"{given.name} does not change {untouched} of the {len(deltas)} trained modules; these start afresh."
        )
    sha256 = hash_of(located.path).sha256
    return Adapter("initial", "official", deltas, alphas=fresh.alphas), tuple(notes), sha256


def _check(given: Adapter, placed: tuple[str, ...], fresh: Adapter, config: TrainConfig) -> None:
    """Refuses what could not be carried into the run whole."""
    kinds = {type(given.deltas[path]).__name__ for path in placed if path in given.deltas}
    if given.biases or kinds != {"LowRank"}:
        what = "biases" if given.biases else " and ".join(sorted(kinds - {"LowRank"})) or "nothing"
        raise UserError(
            f"Training cannot go on from {given.name}, which holds {what}.", "Give {field:init_adapter} a plain LoRA."
        )
    if outside := sorted(set(placed) - set(fresh.deltas)):
        names = ", ".join(some(outside, 3))
        raise UserError(
            f"{given.name} changes {len(outside)} linears that this run does not train ({names}).",
            "Name them with {field:modules} and {field:projections}.",
        )
    rank = max(delta.rank for path in placed if isinstance(delta := given.deltas[path], LowRank))
    if rank > config.rank:
        raise UserError(
            f"{given.name} has rank {rank}, more than the {config.rank} of this run.", f"Give {{field:rank={rank}}}."
        )
