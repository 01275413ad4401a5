"""What adapters of each kind add to a linear's output, computed beside it and without touching it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.adapter.deltas import Delta, DoRA, Full, LoHa, LoKr, LowRank
from mlx_ltxw.models.ops.twins import gradients_wanted
from mlx_ltxw.tree import Linear, dense_weight


class Branch(nn.Module):
    """What an adapter adds to a linear's output."""

    def __call__(self, x: mx.array, y: mx.array, base: Linear) -> mx.array:
        """The addition (..., out) for an input (..., in) whose base gave `y` (..., out)."""
        raise NotImplementedError

    def added(self, out: mx.array, x: mx.array, y: mx.array, base: Linear) -> mx.array:
        """`out` (..., out) and the addition; of the dtype of `out`."""
        return out + self(x, y, base).astype(out.dtype)


class LowRankBranch(Branch):
    """`scale * B A x`; the factors can be trained.

    Attributes:
        lora_A: (rank, in).
        lora_B: (out, rank).
        scale: alpha / rank times the strength.
    """

    def __init__(self, a: mx.array, b: mx.array, scale: float) -> None:
        super().__init__()
        self.lora_A = a
        self.lora_B = b
        self.scale = scale

    def __call__(self, x: mx.array, y: mx.array, base: Linear) -> mx.array:
        return self.scale * (self._hidden(x) @ self.lora_B.T.astype(x.dtype))

    def added(self, out: mx.array, x: mx.array, y: mx.array, base: Linear) -> mx.array:
        """As for any branch, in one kernel with the product."""
        hidden, factor = self._hidden(x), self.lora_B.astype(x.dtype)
        if not gradients_wanted():
            return mx.addmm(out, hidden, factor.T, alpha=self.scale).astype(out.dtype)
        sum_: Any = _add_product(out, hidden, factor, self.scale)
        return sum_.astype(out.dtype)

    def _hidden(self, x: mx.array) -> mx.array:
        factor = self.lora_A.astype(x.dtype)
        hidden: Any = _product(x, factor) if gradients_wanted() else x @ factor.T  # (..., rank)
        return hidden


@mx.custom_function
def _product(x: mx.array, factor: mx.array) -> mx.array:
    """`x F^T`: (..., in) by (out, in). By itself, MLX would make the factor's gradient transposed, clip by clip."""
    return x @ factor.T


@_product.vjp
def _product_vjp(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array]:
    x, factor = primals
    return cotangent @ factor, as_matrix(cotangent).T @ as_matrix(x)


@mx.custom_function
def _add_product(out: mx.array, x: mx.array, factor: mx.array, scale: float) -> mx.array:
    """`out + scale x F^T`."""
    return mx.addmm(out, x, factor.T, alpha=scale)


@_add_product.vjp
def _add_product_vjp(
    primals: tuple[mx.array, mx.array, mx.array, float], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    _, x, factor, scale = primals
    scaled = cotangent if scale == 1 else scale * cotangent
    return cotangent, scaled @ factor, as_matrix(scaled).T @ as_matrix(x)


def as_matrix(x: mx.array) -> mx.array:
    """(..., dim) -> (N, dim); MLX describes a product of matrices in a third of the steps of one of stacks of them."""
    return x.reshape(-1, x.shape[-1])


class KroneckerBranch(Branch):
    """`scale * kron(w1, w2) x`, by two small products instead of the big one."""

    def __init__(self, delta: LoKr, scale: float) -> None:
        super().__init__()
        self.w1 = list(delta.w1)
        self.w2 = list(delta.w2)
        self.scale = scale

    def __call__(self, x: mx.array, y: mx.array, base: Linear) -> mx.array:
        grid = x.reshape(*x.shape[:-1], self.w1[-1].shape[1], self.w2[-1].shape[1])  # (..., in1, in2)
        for factor in reversed(self.w2):
            grid = grid @ factor.T.astype(x.dtype)  # (..., in1, out2)
        grid = grid.swapaxes(-1, -2)
        for factor in reversed(self.w1):
            grid = grid @ factor.T.astype(x.dtype)  # (..., out2, out1)
        return self.scale * grid.swapaxes(-1, -2).reshape(y.shape)


class HadamardBranch(Branch):
    """`scale * ((w1_a w1_b) * (w2_a w2_b)) x`; the product of products is formed at each call and not kept."""

    def __init__(self, delta: LoHa, scale: float) -> None:
        super().__init__()
        self.w1 = list(delta.w1)
        self.w2 = list(delta.w2)
        self.scale = scale

    def __call__(self, x: mx.array, y: mx.array, base: Linear) -> mx.array:
        first, second = ((a.astype(x.dtype) @ b.astype(x.dtype)) for a, b in (self.w1, self.w2))
        return self.scale * (x @ (first * second).T)


class FullBranch(Branch):
    """`scale * D x`, and an addition to the bias; either may be missing."""

    def __init__(self, diff: mx.array | None, bias: mx.array | None, scale: float) -> None:
        super().__init__()
        if diff is not None:
            self.diff = diff
        if bias is not None:
            self.diff_b = bias
        self.scale = scale

    def __call__(self, x: mx.array, y: mx.array, base: Linear) -> mx.array:
        update = x @ self.diff.T.astype(x.dtype) if "diff" in self else mx.zeros_like(y)
        if "diff_b" in self:
            update = update + self.diff_b.astype(x.dtype)
        return self.scale * update


class DoRABranch(Branch):
    """`scale * (W' - W) x` for rows, or columns, brought to a learned length.

    The lengths are measured once, on the base weight (dequantised if need be); the base's own output is used again.
    """

    def __init__(self, delta: DoRA, base: Linear, scale: float) -> None:
        super().__init__()
        self.inner = branch_of(delta.inner, base, 1.0)
        self.factor = delta.factor(dense_weight(base)).reshape(-1)
        self.columns = delta.length == "columns"
        self.scale = scale
        mx.eval(self.factor)

    def __call__(self, x: mx.array, y: mx.array, base: Linear) -> mx.array:
        factor = self.factor.astype(x.dtype)
        if self.columns:
            scaled = x * factor
            out = base(scaled)
            return self.scale * (_less_bias(out, base) - _less_bias(y, base) + self.inner(scaled, out, base))
        return self.scale * ((factor - 1) * _less_bias(y, base) + factor * self.inner(x, y, base))


def branch_of(delta: Delta, base: Linear, strength: float) -> Branch:
    """The branch of a change at its strength; of `base` it may keep measures."""
    if isinstance(delta, LowRank):
        return LowRankBranch(delta.a, delta.b, delta.scale * strength)
    if isinstance(delta, LoKr):
        return KroneckerBranch(delta, delta.scale * strength)
    if isinstance(delta, LoHa):
        return HadamardBranch(delta, delta.scale * strength)
    if isinstance(delta, Full):
        return FullBranch(delta.diff, None, strength)
    return DoRABranch(delta, base, strength)


def _less_bias(y: mx.array, base: Linear) -> mx.array:
    return y - base.bias if "bias" in base else y
