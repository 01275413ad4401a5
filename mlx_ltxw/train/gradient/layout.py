"""The trained numbers as one vector: a few large operations in place of hundreds of small ones.

The optimizer, the sum over machines and the checkpoint see the vector; the model sees views of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.adapter.apply import adapted_linears
from mlx_ltxw.adapter.branches import LowRankBranch
from mlx_ltxw.adapter.deltas import LowRank
from mlx_ltxw.adapter.formats import Adapter

Factors = list[mx.array]
"""A and B of each module in turn."""


@dataclass(frozen=True)
class Layout:
    """Which part of the vector is which factor.

    Attributes:
        paths: Official names of the adapted linears, sorted.
        shapes: Of A (rank, in) and B (out, rank) of each in turn.
        alpha, rank: The same in every module; `alpha / rank` scales `B A`.
    """

    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    alpha: float
    rank: int

    @classmethod
    def of(cls, adapter: Adapter) -> tuple[Layout, mx.array]:
        """The layout of a LoRA, and its numbers (N,) fp32."""
        paths = tuple(adapter.targets)
        factors: Factors = []
        for path in paths:
            delta = adapter.deltas[path]
            assert isinstance(delta, LowRank)
            factors += [delta.a, delta.b]
        rank, alpha = factors[0].shape[0], adapter.alpha
        assert alpha is not None
        flat = mx.concatenate([factor.reshape(-1).astype(mx.float32) for factor in factors])
        return cls(paths, tuple(factor.shape for factor in factors), alpha, rank), flat

    @property
    def size(self) -> int:
        """Numbers in all."""
        return sum(math.prod(shape) for shape in self.shapes)

    def factors(self, flat: mx.array) -> Factors:
        """Views of the vector (N,)."""
        ends = list(itertools.accumulate(math.prod(shape) for shape in self.shapes))
        parts = mx.split(flat, ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def flat(self, factors: Factors) -> mx.array:
        """The vector (N,) of such factors: the inverse of `factors`."""
        return mx.concatenate([factor.reshape(-1) for factor in factors])

    def branches(self, adapted: nn.Module) -> list[LowRankBranch]:
        """An adapted model's branches, in the order of `paths`."""
        here = adapted_linears(adapted)
        branches = [here[path].branches[0] for path in self.paths]
        assert all(isinstance(branch, LowRankBranch) for branch in branches)
        return branches

    def adapter(self, flat: mx.array, name: str) -> Adapter:
        """The vector as an adapter."""
        factors = self.factors(flat)
        scale = self.alpha / self.rank
        pairs = zip(self.paths, factors[::2], factors[1::2], strict=True)
        deltas = {path: LowRank(a, b, scale) for path, a, b in pairs}
        return Adapter(name, "official", dict(deltas), alphas=dict.fromkeys(self.paths, self.alpha))

    def delta_rms(self, flat: mx.array) -> mx.array:
        """Root mean square of all elements of all changes `alpha / rank * B A`, a scalar; B A is never formed."""
        factors = self.factors(flat)
        total, count = mx.array(0.0), 0
        for a, b in zip(factors[::2], factors[1::2], strict=True):
            total = total + mx.sum((a @ a.T) * (b.T @ b))
            count += a.shape[1] * b.shape[0]
        return self.alpha / self.rank * mx.sqrt(mx.maximum(total, 0) / count)


def set_factors(factors: Factors, branches: Sequence[LowRankBranch]) -> None:
    """Puts the numbers into an adapted model's branches, from `Layout.branches`."""
    for a, b, branch in zip(factors[::2], factors[1::2], branches, strict=True):
        branch.lora_A, branch.lora_B = a, b


def clear_factors(branches: Sequence[LowRankBranch]) -> None:
    """Takes the numbers out again, so that nothing holds on to them."""
    nothing = mx.zeros((0, 0))
    set_factors([nothing] * (2 * len(branches)), branches)
