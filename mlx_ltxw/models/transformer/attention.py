"""Multi-head attention with RMS-normed queries and keys, split RoPE and a gate per head.

Source: `ltx_core/model/transformer/attention.py:Attention.forward`, `ops.py`.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models import ops
from mlx_ltxw.models.ops.cuda import attention as gated_cuda
from mlx_ltxw.models.ops.cuda import elementwise
from mlx_ltxw.models.ops.twins import twin
from mlx_ltxw.models.transformer.rope import Rope, turned_norm
from mlx_ltxw.models.transformer.spread import Spread
from mlx_ltxw.models.transformer.walk import Done, nothing_done


def gate_heads(out: mx.array, logits: mx.array) -> mx.array:
    """Scales each head by `2 sigmoid(logit)`: (B, T, H, D) by (B, T, H)."""
    made: Any = (_fused_gates if elementwise.takes_heads(out, logits) else _gate_heads)(out, logits)
    return made


def _gate_heads(out: mx.array, logits: mx.array) -> mx.array:
    return _scaled_heads(out, logits[..., None])  # the new axis inside would make two kernels of it


_fused_gates = twin(elementwise.gate_heads, _gate_heads)


@mx.compile
def _scaled_heads(out: mx.array, logits: mx.array) -> mx.array:
    return (out.astype(mx.float32) * (2.0 * mx.sigmoid(logits.astype(mx.float32)))).astype(out.dtype)


class Read(NamedTuple):
    """What an attention read of its contexts.

    Attributes:
        keys, values: (C, S, heads * D); keys before their norm and rotation.
        counts: How many queries in a row share each of the C contexts; empty for equally many.
    """

    keys: mx.array
    values: mx.array
    counts: tuple[int, ...] = ()


@runtime_checkable
class AdaptedProjection(Protocol):
    """A linear with adapters beside it, which can start from what the bare linear has made."""

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out)."""

    def from_base(self, x: mx.array, y: mx.array) -> mx.array:
        """As the call, for an input (..., in) of which the linear without its adapters made `y` (..., out)."""


class Attention(nn.Module):
    """Self- or cross-attention.

    Args:
        query_dim: Width of the query stream (and of the output).
        context_dim: Width of the key and value stream.
        heads: Attention heads.
        head_dim: Width of one head.
        eps: Of the query and key norms, which span all heads together.
        gated: Whether a gate per head, computed from the query input, scales the result.
    """

    def __init__(self, query_dim: int, context_dim: int, heads: int, head_dim: int, eps: float, gated: bool) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.head_dim = head_dim
        self.to_q = nn.Linear(query_dim, inner)
        self.to_k = nn.Linear(context_dim, inner)
        self.to_v = nn.Linear(context_dim, inner)
        self.to_out = [nn.Linear(inner, query_dim)]
        self.q_norm = nn.RMSNorm(inner, eps)
        self.k_norm = nn.RMSNorm(inner, eps)
        if gated:
            self.to_gate_logits = nn.Linear(query_dim, heads)

    def __call__(
        self,
        x: mx.array,
        context: mx.array | Read | None = None,
        rope: Rope | None = None,
        key_rope: Rope | None = None,
        values_only: bool = False,
        done: Done = nothing_done,
        spread: Spread | None = None,
    ) -> mx.array:
        """Attends from `x` to `context`.

        Args:
            x: (B, T, query_dim).
            context: (B, S, context_dim), or (B / n, S, context_dim) where n in a row share one; or what `read` gave for
                it, which may say how many share each; `x` itself when None.
            rope: Rotation of the queries, and of the keys unless `key_rope` is given. None: no rotation.
            key_rope: Rotation of the keys.
            values_only: The spatio-temporal-guidance perturbation: the values pass as they are, unattended.
            spread: How the context's tokens lie over machines, where only this machine's are here.

        Returns:
            (B, T, query_dim).
        """
        read = context if isinstance(context, Read) else self.read(x if context is None else context)
        gates = self.to_gate_logits(x) if "to_gate_logits" in self else None
        if values_only:
            out = self._split(read.values)
            out = out if gates is None else gate_heads(out, gates)
        else:
            out = self._mix(x, read, rope, key_rope, gates, done, spread)
        return self.project_out(out.reshape(*x.shape[:2], -1))

    def project_out(self, x: mx.array) -> mx.array:
        """What leaves the attention, of its heads' results side by side: (B, T, H * D) -> (B, T, query_dim)."""
        return self.to_out[0](x)

    def read(self, context: mx.array, shared: Read | None = None, counts: tuple[int, ...] = ()) -> Read:
        """Keys and values of contexts.

        Args:
            context: (C, S, context_dim).
            shared: What the attention that this one was adapted from read of the very same context, in any dtype. A
                linear with an adapter beside it adds to that, and does not compute it again.
            counts: See `Read`.
        """
        if shared is None:
            return Read(self.to_k(context), self.to_v(context), counts)
        keys, values = (x.astype(context.dtype) for x in (shared.keys, shared.values))
        return Read(_from_base(self.to_k, context, keys), _from_base(self.to_v, context, values), counts)

    def _mix(
        self, x: mx.array, read: Read, rope: Rope | None, key_rope: Rope | None, gates: mx.array | None, done: Done,
        spread: Spread | None,
    ) -> mx.array:  # fmt: skip
        queries, keys = self.turned(self.to_q(x), read.keys, rope, key_rope or rope)
        values = self._split(read.values)
        if spread is not None:
            keys, values = spread.keys_and_values(keys, values)
            done((keys, values))  # they are on their way while the queries are made
        done((queries, keys, values))
        if gates is None:
            return _attend_tokens(queries, keys, values, self.scale, read.counts)
        return attend_gated(queries, keys, values, gates, self.scale, read.counts)

    @property
    def scale(self) -> float:
        """Of the scores."""
        return self.head_dim**-0.5

    def turned_heads(self, projected: mx.array, norm: nn.RMSNorm, rope: Rope | None) -> mx.array:
        """Queries or keys as the scores take them: (B, T, H * D), normed as a whole, to heads (B, T, H, D), rotated."""
        return self._split(norm(projected)) if rope is None else turned_norm(projected, norm.weight, norm.eps, *rope)

    def turned(self, queries: mx.array, keys: mx.array, rope: Rope | None, key_rope: Rope | None) -> list[mx.array]:
        """Projected queries and keys, (B, T, H * D) each, as the scores take them: `turned_heads` of both."""
        return [self.turned_heads(queries, self.q_norm, rope), self.turned_heads(keys, self.k_norm, key_rope)]

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], self.heads, self.head_dim)  # (B, T, H, D)


def for_each_query(context: mx.array, batch: int) -> mx.array:
    """Keys or values (B / n, S, ...) of contexts that n queries in a row share, once for each of B."""
    return context if len(context) == batch else mx.repeat(context, batch // len(context), axis=0)


def _from_base(linear: nn.Module, x: mx.array, y: mx.array) -> mx.array:
    """What a linear makes of `x`, given what it makes of it without its adapters."""
    return linear.from_base(x, y) if isinstance(linear, AdaptedProjection) else linear(x)


def attend(queries: mx.array, keys: mx.array, values: mx.array, scale: float, counts: tuple[int, ...] = ()) -> mx.array:
    """Attention of queries of which several in a row may share a context: those are attended in one, token after token,
    so that keys and values are never repeated.

    Args:
        queries: (B, H, T, D).
        keys, values: (C, H, S, D), or one of the two (1, H, S, D).
        scale: Of the products.
        counts: How many queries share each context, B in all; empty for equally many.

    Returns:
        (B, H, T, D).
    """
    contexts = max(len(keys), len(values))
    keys, values = (mx.broadcast_to(y, (contexts, *y.shape[1:])) for y in (keys, values))
    if contexts == len(queries):
        return ops.attention(queries, keys, values, scale=scale)
    if contexts == 1 or len(set(counts)) <= 1:
        return _attend_folded(queries, keys, values, scale)
    ends = [*itertools.accumulate(counts)]
    parts = [
        _attend_folded(queries[end - count : end], keys[one : one + 1], values[one : one + 1], scale)
        for one, (count, end) in enumerate(zip(counts, ends, strict=True))
    ]
    return mx.concatenate(parts)


def _attend_tokens(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, counts: tuple[int, ...]
) -> mx.array:
    """`attend` of (B, T, H, D), as projections make them, to the same."""
    queries, keys, values = (y.transpose(0, 2, 1, 3) for y in (queries, keys, values))
    return attend(queries, keys, values, scale, counts).transpose(0, 2, 1, 3)


def attend_gated(
    queries: mx.array, keys: mx.array, values: mx.array, gates: mx.array, scale: float, counts: tuple[int, ...] = ()
) -> mx.array:
    """`attend` of (B, T, H, D), with each head's result multiplied by its gate.

    Args:
        queries: (B, T, H, D).
        keys, values: (C, S, H, D).
        gates: (B, T, H), for `gate_heads`.
        scale: Of the products.
        counts: As for `attend`.
    """
    if gated_cuda.takes(queries, keys, values, gates):
        made: Any = _fused_attention(queries, keys, values, gates, scale)
        return made
    return gate_heads(_attend_tokens(queries, keys, values, scale, counts), gates)


def _attend_and_gate(queries: mx.array, keys: mx.array, values: mx.array, gates: mx.array, scale: float) -> mx.array:
    return _gate_heads(_attend_tokens(queries, keys, values, scale, ()), gates)


_fused_attention = twin(gated_cuda.gated, _attend_and_gate)


def _attend_folded(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """Where equally many queries in a row share each context."""
    _, heads, tokens, width = queries.shape
    contexts, sharing = len(keys), len(queries) // len(keys)
    if sharing == 1:
        return ops.attention(queries, keys, values, scale=scale)
    rows = queries.reshape(contexts, sharing, heads, tokens, width).transpose(0, 2, 1, 3, 4)
    out = ops.attention(rows.reshape(contexts, heads, sharing * tokens, width), keys, values, scale=scale)
    out = out.reshape(contexts, heads, sharing, tokens, width).transpose(0, 2, 1, 3, 4)
    return out.reshape(queries.shape)
