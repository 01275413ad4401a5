"""A machine's share of adapters: each change is cut as the linear that it belongs to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import mlx.core as mx

from mlx_ltxw.adapter.deltas import Delta, DoRA, Full, LoHa, LowRank
from mlx_ltxw.adapter.formats import Adapter
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.errors import UserError
from mlx_ltxw.models.transformer.tensor import COLUMNS, ROWS, TensorShare


def shared_adapters(adapters: Sequence[tuple[Adapter, Strength]], shard: TensorShare) -> list[tuple[Adapter, Strength]]:
    """The same adapters, of which a machine has its share.

    Raises:
        UserError: a DoRA whose lengths span several machines.
    """
    return [(_adapter(adapter, shard), strength) for adapter, strength in adapters]


def _adapter(adapter: Adapter, shard: TensorShare) -> Adapter:
    deltas = {}
    for path, delta in adapter.deltas.items():
        found = shard.part_of(path)
        if found is None:
            deltas[path] = delta
            continue
        axis, part = found
        cut = _cut(delta, axis, part.of(delta.shape[0 if axis == ROWS else 1]))
        if cut is None:
            raise UserError(
                f"{adapter.name} changes {path} by lengths that span all machines.", "Give {field:split=tokens}."
            )
        deltas[path] = cut
    biases = {}
    for path, bias in adapter.biases.items():
        found = shard.part_of(path)
        if found is not None and found[0] == ROWS:
            biases[path] = bias[found[1].of(len(bias))]
        else:  # added to a sum: by one machine, and zeros elsewhere, so that the adapter has the same modules
            biases[path] = bias if shard.keeps(f"{path}.bias") else mx.zeros_like(bias)
    return dataclasses.replace(adapter, deltas=deltas, biases=biases)


def _cut(delta: Delta, axis: str, part: slice) -> Delta | None:
    """Some rows or columns of a change; None where it cannot be told without the others."""
    if isinstance(delta, DoRA):
        spans = (delta.length == "columns") != (axis == COLUMNS)
        inner = None if spans else _cut(delta.inner, axis, part)
        if inner is None or isinstance(inner, Full | DoRA):  # a LoKr's share is no Kronecker product
            return None
        return dataclasses.replace(delta, inner=inner, magnitude=delta.magnitude[part])
    if isinstance(delta, LowRank):
        if axis == ROWS:
            return dataclasses.replace(delta, b=delta.b[part])
        return dataclasses.replace(delta, a=delta.a[:, part])
    if isinstance(delta, LoHa):
        if axis == ROWS:
            pairs = [(out[part], into) for out, into in (delta.w1, delta.w2)]
        else:
            pairs = [(out, into[:, part]) for out, into in (delta.w1, delta.w2)]
        return dataclasses.replace(delta, w1=pairs[0], w2=pairs[1])
    dense = delta.diff if isinstance(delta, Full) else delta.dense()
    return Full(dense[part] if axis == ROWS else dense[:, part])
