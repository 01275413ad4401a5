"""Applies adapters beside a model's linears, without touching the model.

`adapt` returns a clone of the module tree that shares every base array; only the targeted linears are wrapped. So base
and adapted model stand side by side in the memory of one, which the exact video lock needs, and dropping the clone
removes the adapter exactly. Quantised linears keep their packed weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.adapter.deltas import Delta, DoRA, Full, LoHa, LoKr, LowRank, at_strength
from mlx_ltxw.adapter.formats import Adapter
from mlx_ltxw.adapter.names import tokens_of
from mlx_ltxw.adapter.placing import Placement, match, place
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.tree import Linear, dense_weight, linears, replace, share

Adapters = Sequence[tuple[Adapter, Strength]]
Model = TypeVar("Model", bound=nn.Module)


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
        sum_: Any = _add_product(out, self._hidden(x), self.lora_B.astype(x.dtype), self.scale)
        return sum_.astype(out.dtype)

    def _hidden(self, x: mx.array) -> mx.array:
        hidden: Any = _product(x, self.lora_A.astype(x.dtype))  # (..., rank)
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
    return cotangent @ factor, rows(cotangent).T @ rows(x)


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
    return cotangent, scaled @ factor, rows(scaled).T @ rows(x)


def rows(x: mx.array) -> mx.array:
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
        self.inner = _branch(delta.inner, base, 1.0)
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


class AdaptedLinear(nn.Module):
    """A linear with adapters beside it: `base(x) + gate * (branch(x) + ...)`.

    Args:
        base: The linear, plain or quantised; shared, never changed.
        branches: What the adapters add.

    """

    def __init__(self, base: Linear, branches: Sequence[Branch]) -> None:
        super().__init__()
        self.base = base
        self.branches = list(branches)
        self._gate: mx.array | None = None

    def set_gate(self, gate: mx.array | None) -> None:
        """Scales the addition token by token from now on: (T, 1), or any shape that fits (..., T, out); None for 1."""
        self._gate = gate  # the underscore keeps it out of the parameters

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out), in the base's output dtype."""
        return self.beside(x, self.base(x))

    def beside(self, x: mx.array, y: mx.array) -> mx.array:
        """As the call, for an input (..., in) whose base gave `y` (..., out)."""
        if self._gate is None:
            out = y
            for branch in self.branches:
                out = branch.added(out, x, y, self.base)
            return out
        update = self.branches[0](x, y, self.base)
        for branch in self.branches[1:]:
            update = update + branch(x, y, self.base)
        return y + (update * self._gate.astype(update.dtype)).astype(y.dtype)


def adapt(model: Model, adapters: Adapters, allow_partial: bool = False) -> Model:
    """The model with adapters beside its linears.

    Args:
        model: Left as it is.
        adapters: Each with its strength; all act at once, modules of strength 0 stay bare.
        allow_partial: Leave out what has no place.

    Returns:
        A clone that shares every array with `model`.

    Raises:
        UserError: an adapter that does not fit, or a strength for a module it does not change.
    """
    return attach(model, adapters, [place(adapter, model, allow_partial) for adapter, _ in adapters])


def attach(model: Model, adapters: Adapters, placements: Sequence[Placement] | None = None) -> Model:
    """As `adapt`, for placements already made; without them, a fresh adapter of zeros is welcome too."""
    clone = share(model)
    if placements is None:
        placements = [match(adapter, model) for adapter, _ in adapters]
    here = linears(clone)
    for path, parts in by_module(adapters, placements).items():
        replace(clone, path, AdaptedLinear(here[path], _branches(parts, here[path])))
    return clone


Part = tuple[Delta | None, mx.array | None, float]
"""What one adapter does to one module: the change, the addition to the bias, the strength."""


def by_module(adapters: Adapters, placements: Sequence[Placement]) -> dict[str, list[Part]]:
    """Module path -> the parts of every adapter, in the order given; strength 0 is left out."""
    modules: dict[str, list[Part]] = {}
    for (adapter, strength), placement in zip(adapters, placements, strict=True):
        strength.check(adapter.targets, adapter.name)
        for path in placement.placed:
            value = strength.of(path)
            if value:
                modules.setdefault(path, []).extend(_parts(adapter, path, value))
    return modules


def _parts(adapter: Adapter, path: str, strength: float) -> Iterator[Part]:
    """The change and the addition to the bias, apart where a strength acts on the two in different ways."""
    delta, bias = adapter.deltas.get(path), adapter.biases.get(path)
    if delta is not None:
        delta, factor = at_strength(delta, strength)
        if factor != strength:
            yield delta, None, factor
            delta = None
    if delta is not None or bias is not None:
        yield delta, bias, strength


class BlendedAttention(nn.Module):
    """An adapted text attention whose strength differs from token to token: `base(x) + gate * (adapted(x) - base(x))`.

    The text's keys and values belong to no moment, so scaling them token by token is not possible; both attentions are
    computed instead. At gate 0 a token hears exactly the base, at 1 exactly the adapter.

    Args:
        adapted: The attention with `AdaptedLinear`s; left as it is.
        gate: (T, 1).
    """

    def __init__(self, adapted: nn.Module, gate: mx.array) -> None:
        super().__init__()
        self.adapted = adapted
        self._bare = _bare(adapted)  # its arrays are those of `adapted`
        self._gate = gate

    def __call__(self, x: mx.array, reads: tuple[Any, Any]) -> mx.array:
        """As the attention: (B, T, D) -> (B, T, D), to the text as both have read it."""
        base, adapted = self._bare(x, reads[0]), self.adapted(x, reads[1])
        return base + self._gate.astype(base.dtype) * (adapted - base)

    def read(self, context: mx.array, shared: Any = None) -> tuple[Any, Any]:
        """As the attention, without and with the adapter."""
        bare = self._bare.read(context) if shared is None else shared
        return bare, self.adapted.read(context, bare)


def adapted_linears(model: nn.Module) -> dict[str, AdaptedLinear]:
    """Every wrapped linear, by its official path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, AdaptedLinear)}


def round_factors(model: nn.Module, dtype: mx.Dtype) -> None:
    """Rounds the factors of an adapted model's LoRAs, alone or in a DoRA, to its activations' dtype, for all calls."""
    for branch in model.modules():
        if isinstance(branch, LowRankBranch):
            branch.lora_A, branch.lora_B = branch.lora_A.astype(dtype), branch.lora_B.astype(dtype)
            mx.eval(branch.lora_A, branch.lora_B)


def set_gates(model: nn.Module, audio: mx.array | None = None, video: mx.array | None = None) -> None:
    """Scales the adapter token by token, so that its strength can change within a clip.

    A linear is gated by the tokens it reads: queries and outputs of the audio attentions by `audio`; keys and values of
    `video_to_audio_attn` by `video`. The text has no time: `audio_attn2` becomes a `BlendedAttention`.

    Args:
        model: An adapted model; its base is not concerned.
        audio: (Ta, 1) strengths of the audio tokens, None for 1.
        video: (Tv, 1) of the video tokens.
    """
    _unblend(model)
    gates = {"audio": audio, "video": video}
    wrapped = adapted_linears(model)
    texts = {path[: path.index(_TEXT_ATTENTION) - 1] for path in wrapped if _TEXT_ATTENTION in path}
    for path, linear in wrapped.items():
        linear.set_gate(None if _TEXT_ATTENTION in path else gates.get(tokens_of(path)))
    if audio is not None:
        modules = dict(model.named_modules())
        for text in (f"{block}.{_TEXT_ATTENTION}" for block in texts):
            replace(model, text, BlendedAttention(modules[text], audio))


_TEXT_ATTENTION = "audio_attn2"


def _unblend(model: nn.Module) -> None:
    """Takes blended attentions out again, so that other gates may be set."""
    for path, module in list(model.named_modules()):
        if isinstance(module, BlendedAttention):
            replace(model, path, module.adapted)


def _bare(value: Any) -> Any:
    """A clone of a module tree without its adapters."""
    clone = share(value)
    for path, linear in adapted_linears(clone).items():
        replace(clone, path, linear.base)
    return clone


def _branches(parts: Sequence[Part], base: Linear) -> list[Branch]:
    branches: list[Branch] = []
    for delta, bias, strength in parts:
        if delta is not None:
            branches.append(_branch(delta, base, strength))
        if bias is not None:
            branches.append(FullBranch(None, bias, strength))
    return branches


def _branch(delta: Delta, base: Linear, strength: float) -> Branch:
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
