"""Adapters that differ from row to row of a batch, in one module tree: several voices beside one picture.

Each row's low-rank changes lie side by side in one pair of factors, and what the first factor makes is scaled row by
row, by 0 where a change is not the row's own. So a linear does for a batch of rows what it does for one, in as many
kernels, whatever adapters the rows have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.adapter.apply import Changes, Network, SettledLinear, adaptable
from mlx_ltxw.adapter.deltas import LowRank
from mlx_ltxw.adapter.names import tokens_of
from mlx_ltxw.adapter.streamed import changed_by_path
from mlx_ltxw.tree import Linear, replace, share

RowFactors = tuple[mx.array, mx.array, mx.array]
"""Of one linear, as `RowsLinear` takes them."""


class RowsLinear(nn.Module):
    """A linear whose every row has low-rank changes of its own: `base(x) + (scale * (x A^T)) B^T`.

    Args:
        base: Plain or quantised, maybe with adapters of its own; shared, never changed.
        a: (R, in), the factors of all changes below each other.
        b: (out, R).
        scales: (rows, R) fp32, 0 where a change is not the row's.
    """

    def __init__(self, base: Linear | SettledLinear, a: mx.array, b: mx.array, scales: mx.array) -> None:
        super().__init__()
        self.base = base
        self.lora_A = a
        self.lora_B = b
        self._scales = scales[:, None]  # the underscore keeps it out of the parameters

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, T, in), or (1, T, in) that all rows share, -> (rows, T, out)."""
        return self.from_base(x, self.base(x))

    def from_base(self, x: mx.array, y: mx.array) -> mx.array:
        """As the call, for an input whose base gave `y`."""
        hidden = _scaled(x @ self.lora_A.T.astype(x.dtype), self._scales)
        sum_: Any = mx.addmm(y, hidden, self.lora_B.T.astype(x.dtype))
        return sum_.astype(y.dtype)


@mx.compile
def _scaled(hidden: mx.array, scales: mx.array) -> mx.array:
    return (hidden.astype(mx.float32) * scales).astype(hidden.dtype)


def fit_rows(changes: Changes) -> bool:
    """Whether an adapter's changes can share a tree with others: plain LoRAs, none of them in a noise-level embedding,
    which is made once for all rows."""
    return all(
        isinstance(delta, LowRank) and bias is None and tokens_of(path) != "noise"
        for path, each in changes.items()
        for delta, bias, _ in each
    )


def attach_rows(
    model: Network, voices: Sequence[Changes], rows: Mapping[str, Sequence[int]], dtype: mx.Dtype
) -> Network:
    """A clone of a model with adapters beside its linears that differ from row to row; it shares every array.

    Args:
        model: Left as it is.
        voices: What the adapters of each voice do, from `by_module`; each passes `fit_rows`.
        rows: Whose tokens enter a linear (`tokens_of`) -> the voice of each row that comes out of it.
        dtype: Of the activations, to which the factors are rounded.
    """
    factors: dict[str, RowFactors] = {}
    for path in dict.fromkeys(path for changes in voices for path in changes):
        deltas, scales = _side_by_side([changes.get(path, []) for changes in voices])
        a = mx.concatenate([delta.a for delta in deltas]).astype(dtype)
        b = mx.concatenate([delta.b for delta in deltas], axis=1).astype(dtype)
        of_rows = mx.array([scales[voice] for voice in rows[tokens_of(path)]], mx.float32)
        mx.eval(a, b, of_rows)
        factors[path] = a, b, of_rows
    return changed_by_path(model, factors, _with_rows)


def _with_rows(module: Network, factors: Mapping[str, RowFactors]) -> Network:
    """A clone of a model, or of a block, with the factors of some linears, by their paths in it."""
    clone = share(module)
    here = adaptable(clone)
    for path, own in factors.items():
        replace(clone, path, RowsLinear(here[path], *own))
    return clone


def _side_by_side(voices: Sequence[Sequence[Any]]) -> tuple[list[LowRank], list[list[float]]]:
    """The changes of all voices, each once; and by what each voice scales each of their ranks."""
    deltas: list[LowRank] = []
    factors: list[list[float]] = []
    for changes in voices:
        own = [0.0] * len(deltas)
        for delta, _, strength in changes:
            known = next((i for i, other in enumerate(deltas) if other.a is delta.a and other.b is delta.b), None)
            if known is None:
                known = len(deltas)
                deltas.append(delta)
                own.append(0.0)
            own[known] += delta.scale * strength
        factors.append(own)
    scales = [
        [
            factor
            for delta, factor in zip(deltas, own + [0.0] * (len(deltas) - len(own)), strict=True)
            for _ in range(delta.rank)
        ]
        for own in factors
    ]
    return deltas, scales
