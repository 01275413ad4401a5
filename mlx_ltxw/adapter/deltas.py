"""What an adapter does to one linear: the kinds of change, free of any file's spelling.

Every kind knows the (out, in) shape of the weight it changes and can give itself as a dense fp32 matrix, its own
alpha already applied. Sources of the formulas: LoRA arXiv:2106.09685; LoKr and LoHa arXiv:2309.14859; DoRA
arXiv:2402.09353.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class LowRank:
    """LoRA: `scale * b @ a`.

    Attributes:
        a: (rank, in).
        b: (out, rank).
        scale: alpha / rank, or what the format says instead.
    """

    a: mx.array
    b: mx.array
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.b.shape[0], self.a.shape[1]

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def dense(self) -> mx.array:
        """(out, in) fp32."""
        return self.scale * (_wide(self.b) @ _wide(self.a))

    def norm(self) -> float:
        """Frobenius norm, from the two (rank, rank) Gram matrices: the product is never formed."""
        a, b = _double(self.a), _double(self.b)
        return abs(self.scale) * math.sqrt(max(0.0, float(np.sum((a @ a.T) * (b.T @ b)))))


@dataclass(frozen=True)
class LoKr:
    """LoKr: `scale * kron(w1, w2)`, each factor whole or a product of two.

    Attributes:
        w1: (out1, in1), or the pair (out1, rank), (rank, in1).
        w2: (out2, in2), or such a pair; out1 * out2 = out, in1 * in2 = in.
        scale: alpha / rank when a factor is a product, else 1.
    """

    w1: tuple[mx.array, ...]
    w2: tuple[mx.array, ...]
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.w1[0].shape[0] * self.w2[0].shape[0], self.w1[-1].shape[1] * self.w2[-1].shape[1]

    @property
    def rank(self) -> int | None:
        """Of the factors; None when both are whole."""
        products = [pair for pair in (self.w2, self.w1) if len(pair) == 2]
        return products[0][0].shape[1] if products else None

    def dense(self) -> mx.array:
        """(out, in) fp32."""
        return self.scale * mx.kron(product(self.w1), product(self.w2))

    def norm(self) -> float:
        """Frobenius norm: that of a Kronecker product is the product of the two."""
        return abs(self.scale) * _norm(product(self.w1)) * _norm(product(self.w2))


@dataclass(frozen=True)
class LoHa:
    """LoHa: `scale * (w1_a @ w1_b) * (w2_a @ w2_b)`, element by element.

    Attributes:
        w1, w2: The pair (out, rank), (rank, in).
        scale: alpha / rank.
    """

    w1: tuple[mx.array, mx.array]
    w2: tuple[mx.array, mx.array]
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.w1[0].shape[0], self.w1[1].shape[1]

    @property
    def rank(self) -> int:
        return self.w1[0].shape[1]

    def dense(self) -> mx.array:
        """(out, in) fp32."""
        return self.scale * product(self.w1) * product(self.w2)

    def norm(self) -> float:
        """Frobenius norm, of the dense matrix."""
        return _norm(self.dense())


@dataclass(frozen=True)
class Full:
    """A whole weight difference.

    Attributes:
        diff: (out, in).
    """

    diff: mx.array
    rank: None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.diff.shape[0], self.diff.shape[1]

    def dense(self) -> mx.array:
        """(out, in) fp32."""
        return _wide(self.diff)

    def norm(self) -> float:
        """Frobenius norm."""
        return _norm(self.diff)


@dataclass(frozen=True)
class SharedLengths:
    """How lengths are measured of which several machines have a part each.

    Attributes:
        total: The sum over all machines of what each has.
        own: Of the columns that are here, those that no other machine counts.
    """

    total: Callable[[mx.array], mx.array]
    own: slice


@dataclass(frozen=True)
class DoRA:
    """DoRA: the inner change, then every row (or column) of the weight brought to a learned length.

    `W' = magnitude / length * (W + inner)`. What `length` measures, and what a strength does, depends on who wrote the
    file; each is read as its own program reads it:

    | length | measured on | at strength s | written by |
    |---|---|---|---|
    | `rows` | each row of W + inner | s * inner in inner's place | PEFT, musubi, ai-toolkit (`magnitude`) |
    | `base_rows` | each row of W | W + s (W' - W) | ComfyUI's reading of `dora_scale` (out, 1) |
    | `columns` | each column of W + inner | W + s (W' - W) | the same with `dora_scale` (1, in) |

    At strength 0 a module is left out, lengths and all; PEFT would keep the lengths.

    Attributes:
        inner: The change before the lengths.
        magnitude: (out,), or (in,) for `columns`.
        length: Which of the three.
        span: Where other machines have the rest of what is measured.
    """

    inner: LowRank | LoKr | LoHa | Full
    magnitude: mx.array
    length: Literal["rows", "base_rows", "columns"]
    span: SharedLengths | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    def factor(self, weight: mx.array) -> mx.array:
        """`magnitude / length` for a base weight (out, in): (out, 1), or (1, in) for `columns`, fp32."""
        weight = _wide(weight)
        measured = weight if self.length == "base_rows" else weight + self.inner.dense()
        axis = 0 if self.length == "columns" else 1
        if self.span is None:
            lengths = mx.linalg.norm(measured, axis=axis, keepdims=True)
        else:
            squares = mx.sum(mx.square(measured[:, self.span.own]), axis=axis, keepdims=True)
            lengths = mx.sqrt(self.span.total(squares))
        return mx.expand_dims(_wide(self.magnitude), axis) / mx.maximum(lengths, 1e-12)

    def change(self, weight: mx.array) -> mx.array:
        """`W' - W` for a base weight: (out, in) fp32."""
        return self.factor(weight) * (_wide(weight) + self.inner.dense()) - _wide(weight)

    def norm(self) -> float:
        """Frobenius norm of the inner change; the lengths' part depends on the base."""
        return self.inner.norm()


Delta = LowRank | LoKr | LoHa | Full | DoRA


def at_strength(delta: Delta, strength: float) -> tuple[Delta, float]:
    """The change that a strength makes of this one, and the factor that is still to multiply it.

    Only PEFT's DoRA is no straight line: `set_scale` and diffusers' `adapter_weights` scale `B A` inside the norm
    (`peft/tuners/lora/layer.py`, `dora.py`).
    """
    if isinstance(delta, DoRA) and delta.length == "rows":
        return replace(delta, inner=_scaled(delta.inner, strength)), 1.0
    return delta, strength


def _scaled(inner: LowRank | LoKr | LoHa | Full, strength: float) -> LowRank | LoKr | LoHa | Full:
    if isinstance(inner, Full):
        return Full(strength * _wide(inner.diff))
    return replace(inner, scale=inner.scale * strength)


def change(delta: Delta, weight: mx.array) -> mx.array:
    """The matrix to add to a base weight (out, in) at strength 1, fp32."""
    return delta.change(weight) if isinstance(delta, DoRA) else delta.dense()


def rms(delta: Delta) -> float:
    """Root mean square of the change's elements (for DoRA, of the inner change's)."""
    out, into = delta.shape
    return delta.norm() / math.sqrt(out * into)


def number(x: mx.array) -> float:
    """The value of a one-element array of any dtype."""
    return float(np.asarray(_wide(x)).reshape(()))


def greatest(x: mx.array) -> float:
    """The greatest absolute value, 0 for an empty array; by NumPy, since MLX may take the tiniest values for 0."""
    return float(np.max(np.abs(np.asarray(_wide(x))), initial=0.0))


def product(factors: tuple[mx.array, ...]) -> mx.array:
    """The matrix that one or two factors stand for, fp32."""
    return _wide(factors[0]) if len(factors) == 1 else _wide(factors[0]) @ _wide(factors[1])


def _wide(x: mx.array) -> mx.array:
    return x.astype(mx.float32)


def _double(x: mx.array) -> np.ndarray:
    return np.asarray(_wide(x), dtype=np.float64)


def _norm(x: mx.array) -> float:
    return float(np.linalg.norm(_double(x)))
