"""A machine's share of adapters: each change is cut as the linear that it belongs to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from mlx_ltxw.adapter.deltas import Delta, DoRA, Full, LoHa, LowRank, SharedLengths
from mlx_ltxw.adapter.formats import Adapter
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.models.transformer.tensor import COLUMNS, NOT_PACKED, ROWS, TensorShare


def shared_adapters(
    adapters: Sequence[tuple[Adapter, Strength]], shard: TensorShare, layers: Mapping[str, Mapping[str, Any]],
    total: Callable[[mx.array], mx.array],
) -> list[tuple[Adapter, Strength]]:  # fmt: skip
    """The same adapters, of which a machine has its share.

    Args:
        adapters: Whole, each with its strength.
        shard: The share.
        layers: Settings of the model's quantised linears, by path.
        total: The sum over all machines of what each has, for lengths that span them.
    """
    return [(_adapter(adapter, shard, layers, total), strength) for adapter, strength in adapters]


def _adapter(
    adapter: Adapter, shard: TensorShare, layers: Mapping[str, Mapping[str, Any]],
    total: Callable[[mx.array], mx.array],
) -> Adapter:  # fmt: skip
    deltas = {}
    for path, delta in adapter.deltas.items():
        found = shard.part_of(path)
        if found is None:
            deltas[path] = delta
        elif found[0] == ROWS:
            part = found[1].of(delta.shape[0])
            deltas[path] = _cut(delta, ROWS, part, SharedLengths(total, slice(None)))
        else:
            width, packing = delta.shape[1], layers.get(path, NOT_PACKED)
            span = SharedLengths(total, shard.own(path, width, packing))
            deltas[path] = _cut(delta, COLUMNS, shard.held(path, width, packing), span)
    biases = {}
    for path, bias in adapter.biases.items():
        found = shard.part_of(path)
        if found is not None and found[0] == ROWS:
            biases[path] = bias[found[1].of(len(bias))]
        else:  # added to a sum: by one machine, and zeros elsewhere, so that the adapter has the same modules
            biases[path] = bias if shard.keeps(f"{path}.bias") else mx.zeros_like(bias)
    return dataclasses.replace(adapter, deltas=deltas, biases=biases)


def _cut(delta: Delta, axis: str, part: slice, span: SharedLengths) -> Delta:
    """Some rows or columns of a change."""
    if isinstance(delta, DoRA):
        inner = _cut(delta.inner, axis, part, span)
        assert not isinstance(inner, DoRA)
        if (delta.length == "columns") != (axis == COLUMNS):  # each length goes through all machines' rows, or columns
            return dataclasses.replace(delta, inner=inner, span=span)
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
    dense = delta.diff if isinstance(delta, Full) else delta.dense()  # a LoKr's share is no Kronecker product
    return Full(dense[part] if axis == ROWS else dense[:, part])
