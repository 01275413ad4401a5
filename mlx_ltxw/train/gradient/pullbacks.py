"""The parts of an audio block, each with its gradient by hand.

Every function gives what the part makes, and a pullback: from the cotangent of that (the loss's gradient with respect
to it) to the cotangent of what went in. Nothing is traced, so each elementwise piece is one fused kernel forwards and
backwards, and a pullback keeps what it needs and no more: of a frozen linear nothing, of an attention its weights.
Letting go of a pullback frees all that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.adapter.apply import AdaptedLinear
from mlx_ltxw.adapter.branches import LowRankBranch, as_matrix
from mlx_ltxw.models import ops
from mlx_ltxw.models.ops import columns
from mlx_ltxw.models.ops.cuda import gates_back, many, norms_back
from mlx_ltxw.models.ops.cuda.gates_back import GateGradients
from mlx_ltxw.models.ops.cuda.many import Outer
from mlx_ltxw.models.transformer import adaln
from mlx_ltxw.models.transformer.adaln import Row, add_gated, apart, whole
from mlx_ltxw.models.transformer.attention import Attention, for_each_query, gate_heads
from mlx_ltxw.models.transformer.feed_forward import FeedForward
from mlx_ltxw.models.transformer.rope import Rope, turned_back
from mlx_ltxw.models.transformer.update import Attending
from mlx_ltxw.train.gradient.recompute import CastLinear

Pullback = Callable[[mx.array], mx.array]
"""Cotangent of a result to the cotangent of the input."""

Kept = TypeVar("Kept", bound=mx.array | tuple[mx.array, mx.array])


class Gradients(dict[int, tuple[mx.array, mx.array]]):
    """By the identity of a `LowRankBranch`: the gradients of its A and B, fp32."""

    def __init__(self) -> None:
        super().__init__()
        self._outers: list[tuple[int, Outer, Outer]] = []

    def keep(self, value: Kept) -> Kept:
        """Passes on what a pullback will use, and would not make again; told of each such thing, in order.

        By itself a pullback holds what it uses. Two compiled functions for the ways there and back can share nothing
        but arrays: the first gives all of these, and the second takes them (`audio_stream.py`).
        """
        return value

    def add(self, branch: LowRankBranch, a: Outer, b: Outer) -> None:
        """Takes the gradients of a branch's A and B, which are there when they have been `multiplied`."""
        self._outers.append((id(branch), a, b))

    def multiplied(self) -> None:
        """Makes all that was added, together."""
        made = iter(many.outers([outer for _, *both in self._outers for outer in both]) if self._outers else ())
        self.update((branch, (next(made), next(made))) for branch, _, _ in self._outers)
        self._outers.clear()


class Projected(NamedTuple):
    """What a linear made of tokens, one a row.

    Attributes:
        value: (N, out).
        back: Takes the cotangent (N, out) and, optionally, another cotangent (N, in) of the same input to add to.
    """

    value: mx.array
    back: Callable[..., mx.array]


def project(
    layer: nn.Module, x: mx.array, gradients: Gradients, base: mx.array | None = None, narrower: mx.array | None = None
) -> Projected:
    """Through a frozen linear, plain or quantised, and the trained factors beside it if there are any.

    Args:
        layer: `nn.Linear`, `CastLinear`, `nn.QuantizedLinear`, or an `AdaptedLinear` of one of them with one LoRA.
        x: (N, in).
        gradients: Takes the factors' gradients.
        base: What the frozen linear makes of `x`, if that is known.
        narrower: What `x` was cast from, to be kept in its place.
    """
    if not isinstance(layer, AdaptedLinear):
        return Projected(_frozen(layer, x), lambda cotangent, onto=None: _frozen_back(layer, cotangent, onto))
    frozen: Any = layer.base
    held = x if narrower is None else narrower
    branch = layer.branches[0]
    assert isinstance(branch, LowRankBranch)
    a, b = branch.lora_A.astype(x.dtype), branch.lora_B.astype(x.dtype)
    hidden = gradients.keep(x @ a.T)
    value = mx.addmm(_frozen(frozen, x) if base is None else base, hidden, b.T, alpha=branch.scale)

    def back(cotangent: mx.array, onto: mx.array | None = None) -> mx.array:
        scaled = cotangent if branch.scale == 1 else branch.scale * cotangent
        narrow = scaled @ b
        into = held.astype(cotangent.dtype)
        gradients.add(branch, Outer(into, narrow, across=True), Outer(scaled, hidden, across=False))
        return mx.addmm(_frozen_back(frozen, cotangent, onto), narrow, a)

    return Projected(value, back)


def modulated_norm(
    x: mx.array, scale: Row, shift: Row, eps: float, gradients: Gradients
) -> tuple[mx.array, Callable[[mx.array, mx.array], mx.array]]:  # fmt: skip
    """RMS norm and modulation of (B, T, dim), as every part of a block begins.

    Returns:
        The result; and what takes its cotangent and another one of `x`, and adds to that.
    """
    scale = apart(scale)
    value, scale = gradients.keep(adaln.modulated_norm(x, scale, shift, eps)), gradients.keep(scale)

    def back(cotangent: mx.array, onto: mx.array) -> mx.array:
        row = scale if isinstance(scale, mx.array) else whole(scale)
        if norms_back.takes_modulated(x, row):
            return norms_back.modulated_back(x, row, eps, cotangent, onto)
        return onto + _unnormed(x, _stretched(cotangent, scale), eps)

    return value, back


def gated_sum(x: mx.array, update: mx.array, gate: Row, gradients: Gradients) -> tuple[mx.array, Pullback]:
    """`x + update * gate`, as every part ends; the pullback gives the cotangent of `update`, `x` has the sum's own."""
    gate = apart(gate)
    value, gate = gradients.keep(add_gated(x, update, gate)), gradients.keep(gate)
    return value, lambda cotangent: _gated(cotangent, gate)


def feed_forward(network: FeedForward, x: mx.array, gradients: Gradients) -> tuple[mx.array, Pullback]:
    """The gelu network: (B, T, dim) -> (B, T, dim)."""
    shape = x.shape
    value, inner_back = project(network.net[0].proj, as_matrix(x), gradients)
    wide = gradients.keep(value)
    out, outer_back = project(network.net[2], ops.gelu_tanh(wide), gradients)

    def back(cotangent: mx.array) -> mx.array:
        return inner_back(_gelu_back(wide, outer_back(as_matrix(cotangent)))).reshape(shape)

    return out.reshape(shape), back


def attend(attention: Attention, x: mx.array, gradients: Gradients, attending: Attending) -> tuple[mx.array, Pullback]:
    """Attention from `x` to itself or to a context that is not trained through.

    Args:
        attention: Gated, its linears frozen or adapted.
        x: (B, T, dim).
        gradients: Takes the factors' gradients.
        attending: What it attends to; several in a row of the batch may share a context.
    """
    shape, own, context = x.shape, as_matrix(x), attending.context
    to_itself = context is None
    held = own if context is None else gradients.keep(as_matrix(context))
    read = held.astype(x.dtype)
    base = (None, None) if attending.base_read is None else (attending.base_read.keys, attending.base_read.values)
    base_keys, base_values = (None if part is None else as_matrix(columns.apart(part)).astype(x.dtype) for part in base)
    tokens = (x if context is None else context).shape[1]
    q, q_back = project(attention.to_q, own, gradients)
    gates, gates_back = project(attention.to_gate_logits, own, gradients)
    k, k_back = project(attention.to_k, read, gradients, base_keys, held)
    v, v_back = project(attention.to_v, read, gradients, base_values, held)
    queries, queries_back = _turned_heads(attention, attention.q_norm, q, shape[1], attending.rope, gradients)
    keys, keys_back = _turned_heads(
        attention, attention.k_norm, k, tokens, attending.key_rope or attending.rope, gradients
    )
    logits, rows = gradients.keep(gates.reshape(*shape[:2], -1)), v.shape
    mixed = _Mix(queries, keys, v.reshape(keys.shape), logits, attention.scale, gradients)
    out, out_back = project(attention.to_out[0], gradients.keep(mixed.value), gradients)

    def back(cotangent: mx.array) -> mx.array:
        d_queries, d_keys, d_values, d_gates = mixed.back(out_back(as_matrix(cotangent)))
        d_keys, d_values = keys_back(d_keys), d_values.reshape(rows)
        d_x = q_back(queries_back(d_queries), gates_back(as_matrix(d_gates)))
        if to_itself:
            return v_back(d_values, k_back(d_keys, d_x)).reshape(shape)
        k_back(d_keys)  # for their factors alone
        v_back(d_values)
        return d_x.reshape(shape)

    return out.reshape(shape), back


class _Mix:
    """Softmax attention and the gates of its heads.

    For a few heads at a time where that is faster (`models/ops/dot_product.py`).

    Args:
        queries: (B, T, H, D).
        keys, values: (B / n, S, H, D) each.
        logits: (B, T, H) of the gates.
        scale: Multiplies the scores, 1 / sqrt(head_dim).
        gradients: Is told what is kept.

    Attributes:
        value: (B * T, H * D).
    """

    def __init__(
        self, queries: mx.array, keys: mx.array, values: mx.array, logits: mx.array, scale: float, gradients: Gradients
    ) -> None:  # fmt: skip
        self.sharing, self.logits, self.scale = len(queries) // len(keys), logits, scale
        keys, values = for_each_query(keys, len(queries)), for_each_query(values, len(queries))
        keep = gradients.keep
        self.queries, self.keys, self.values = (keep(ops.heads_first(x)) for x in (queries, keys, values))
        self.parts = ops.head_groups(self.queries, self.keys)
        made = (ops.attention_weights(self.queries[:, part], self.keys[:, part], scale) for part in self.parts)
        self.weights = [(keep(weights), None if norm is None else keep(norm)) for weights, norm in made]
        mixed = [
            _times(weights @ self.values[:, part], norm)
            for part, (weights, norm) in zip(self.parts, self.weights, strict=True)
        ]
        self.out = keep(_joined(mixed))  # (B, T, H, D)
        value = gate_heads(self.out, logits).astype(logits.dtype)
        self.value = value.reshape(-1, queries.shape[2] * queries.shape[3])

    def back(self, cotangent: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """Cotangents of queries, keys, values and logits, given that of the value.

        As in FlashAttention-2 (arXiv:2307.08691, section 3.1), but that the weights are kept.
        """
        cotangent = cotangent.reshape(self.out.shape)
        d_mixed, means, d_logits = self._back_to_heads(cotangent)
        d_queries, d_keys, d_values = [], [], []
        for part, (weights, norm) in zip(self.parts, self.weights, strict=True):
            normed = _times(d_mixed[:, part], norm)
            d_weights = normed @ self.values[:, part].swapaxes(-1, -2)
            d_scores = _score_gradients(weights, d_weights, _times(means[:, part], norm), self.scale)
            d_queries.append(d_scores @ self.keys[:, part])
            d_keys.append(d_scores.swapaxes(-1, -2) @ self.queries[:, part])
            d_values.append(weights.swapaxes(-1, -2) @ normed)
        results = _joined(d_queries), self._summed(_joined(d_keys)), self._summed(_joined(d_values)), d_logits
        own, keys, values, gates = (result.astype(self.logits.dtype) for result in results)
        return own, keys, values, gates

    def _back_to_heads(self, cotangent: mx.array) -> GateGradients:
        if gates_back.takes(cotangent):
            return gates_back.gradients(cotangent, self.out.transpose(0, 2, 1, 3), self.logits)
        mean, d_logits = _gate_gradients(mx.sum(cotangent * self.out, axis=-1), self.logits)
        means = mean.swapaxes(1, 2)[..., None]  # of the gradients of a token's weights
        return GateGradients(gate_heads(cotangent, self.logits).transpose(0, 2, 1, 3), means, d_logits)

    def _summed(self, cotangent: mx.array) -> mx.array:
        """Over the queries in a row that share a context."""
        if self.sharing == 1:
            return cotangent
        return mx.sum(cotangent.reshape(-1, self.sharing, *cotangent.shape[1:]), axis=1)


def _joined(parts: list[mx.array]) -> mx.array:
    """(B, heads, T, D) each to (B, T, H, D)."""
    turned = [part.transpose(0, 2, 1, 3) for part in parts]
    return turned[0] if len(turned) == 1 else mx.concatenate(turned, axis=2)


def _times(x: mx.array, factor: mx.array | None) -> mx.array:
    return x if factor is None else x * factor


def _turned_heads(
    attention: Attention, norm: nn.RMSNorm, x: mx.array, tokens: int, rope: Rope | None, gradients: Gradients
) -> tuple[mx.array, Pullback]:
    """`Attention.turned_heads` of rows (B * tokens, H * D)."""
    x = gradients.keep(x)
    rows = x.reshape(-1, tokens, x.shape[1])
    turned = attention.turned_heads(rows, norm, rope)

    def back(cotangent: mx.array) -> mx.array:
        if norms_back.takes_turned(rows, norm.weight, attention.head_dim, rope):
            apart = cotangent.transpose(0, 2, 1, 3)  # as the products have made it
            return norms_back.turned_back(rows, norm.weight, norm.eps, rope, apart).reshape(x.shape)
        unturned = cotangent if rope is None else turned_back(cotangent, *rope)
        return _unnormed(x, unturned.reshape(x.shape) * norm.weight.astype(x.dtype), norm.eps)

    return turned, back


def _frozen(layer: Any, x: mx.array) -> mx.array:
    if isinstance(layer, nn.QuantizedLinear):
        return ops.packed_product(layer, x)
    weight = _weight(layer, x).T
    return mx.addmm(layer.bias, x, weight) if "bias" in layer else x @ weight


def _frozen_back(layer: Any, cotangent: mx.array, onto: mx.array | None) -> mx.array:
    if not isinstance(layer, nn.QuantizedLinear):
        weight = _weight(layer, cotangent)
        return cotangent @ weight if onto is None else mx.addmm(onto, cotangent, weight)
    return ops.packed_back(layer, cotangent, onto)


def _weight(layer: nn.Linear | CastLinear, x: mx.array) -> mx.array:
    return layer.cast(x) if isinstance(layer, CastLinear) else layer.weight


def _unnormed(x: mx.array, cotangent: mx.array, eps: float) -> mx.array:
    _, (back,) = mx.vjp(lambda y: mx.fast.rms_norm(y, None, eps), [x], [cotangent])
    return back


@mx.compile
def _gelu_back(x: mx.array, cotangent: mx.array) -> mx.array:
    return mx.vjp(ops.gelu_tanh, [x], [cotangent])[1][0]


@mx.compile
def _stretched(cotangent: mx.array, scale: Row) -> mx.array:
    return (cotangent.astype(mx.float32) * (1 + whole(scale))).astype(cotangent.dtype)


@mx.compile
def _gated(cotangent: mx.array, gate: Row) -> mx.array:
    return (cotangent.astype(mx.float32) * whole(gate)).astype(cotangent.dtype)


@mx.compile
def _gate_gradients(cotangent: mx.array, logits: mx.array) -> tuple[mx.array, mx.array]:
    """From the gradient of a head's gate, twice the sigmoid of a logit: gate times gradient, and that of the logit."""
    gate = 2.0 * mx.sigmoid(logits.astype(mx.float32))
    product = gate * cotangent.astype(mx.float32)
    return product.astype(cotangent.dtype), (product * (1 - 0.5 * gate)).astype(cotangent.dtype)


@mx.compile
def _score_gradients(weights: mx.array, cotangents: mx.array, means: mx.array, scale: float) -> mx.array:
    return weights * (cotangents - means) * scale
