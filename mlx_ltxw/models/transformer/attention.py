"""Multi-head attention with RMS-normed queries and keys, split RoPE and a gate per head.

Source: `ltx_core/model/transformer/attention.py:Attention.forward`, `ops.py`.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models import ops
from mlx_ltxw.models.ops.columns import Columns, Projection, apart
from mlx_ltxw.models.ops.cuda import attention as gated_cuda
from mlx_ltxw.models.ops.cuda import elementwise
from mlx_ltxw.models.ops.twins import twin
from mlx_ltxw.models.transformer.rope import Rope, turned_norm, turned_pair
from mlx_ltxw.models.transformer.spread import Spread
from mlx_ltxw.models.transformer.walk import Done, nothing_done
from mlx_ltxw.tree import share

GATES = "to_gate_logits"
TOKENS, WIDE = 2048, 4096
"""Linears that lie together are one product for up to so many tokens of a clip. For more only keys and values are, of
no more than so many columns: a GPU multiplies in tiles, and few columns more may take another round of them. On an
H200 in bf16, for 4290 tokens, one product of 12288 columns takes 0.668 ms and three of 4096 take 0.639, for 6144 1.021
and 0.885; one of 4096 takes 0.213 and two of 2048 0.284, for 6144 0.295 and 0.318. How many clips there are is left
out, so that one among others is what it is alone."""


def gate_heads(out: mx.array, logits: Projection) -> mx.array:
    """Scales each head by `2 sigmoid(logit)`: (B, T, H, D) by (B, T, H)."""
    made: Any = (_fused_gates if elementwise.takes_heads(out, logits) else _gate_heads)(out, logits)
    return made


def _gate_heads(out: mx.array, logits: Projection) -> mx.array:
    return _scaled_heads(out, apart(logits)[..., None])  # the new axis inside would make two kernels of it


_fused_gates = twin(elementwise.gate_heads, _gate_heads)


@mx.compile
def _scaled_heads(out: mx.array, logits: mx.array) -> mx.array:
    return (out.astype(mx.float32) * (2.0 * mx.sigmoid(logits.astype(mx.float32)))).astype(out.dtype)


class Read(NamedTuple):
    """What an attention read of its contexts.

    Attributes:
        keys, values: (C, S, heads * D); keys before their norm and rotation. Columns of one array, where both are one
            product.
        counts: How many queries in a row share each of the C contexts; empty for equally many.
    """

    keys: Projection
    values: Projection
    counts: tuple[int, ...] = ()


@runtime_checkable
class AdaptedProjection(Protocol):
    """A linear with adapters beside it, which can start from what the bare linear has made."""

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out)."""

    def from_base(self, x: mx.array, y: mx.array) -> mx.array:
        """As the call, for an input (..., in) of which the linear without its adapters made `y` (..., out)."""


PLAIN = nn.Linear | nn.QuantizedLinear
"""Linears without adapters beside them."""


def bare(linear: Any) -> Any:
    """The linear that another one with adapters beside it starts from, or itself; None where it starts from none."""
    if isinstance(linear, PLAIN):
        return linear
    base = getattr(linear, "base", None) if isinstance(linear, AdaptedProjection) else None
    return base if isinstance(base, PLAIN) else None


def as_one(linear: Any, arrays: dict[str, mx.array]) -> Any:
    """A bare linear like another one, of other arrays."""
    one = share(bare(linear))
    dict.update(one, arrays)
    return one


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
        queries, gates, read = self._asked(x, context, values_only)
        if values_only:
            out = self._split(apart(read.values))
            out = out if gates is None else gate_heads(out, gates)
        else:
            assert queries is not None
            out = self._mix(queries, read, rope, key_rope, gates, done, spread)
        return self.project_out(out.reshape(*x.shape[:2], -1))

    def _asked(
        self, x: mx.array, context: mx.array | Read | None, values_only: bool
    ) -> tuple[Projection | None, Projection | None, Read]:
        """Queries, logits of the gates, and keys and values; queries only where they are needed."""
        gates = (GATES,) if GATES in self else ()
        own = "to_q", "to_k", "to_v", *gates
        if context is None and not values_only and self._together(x, own):
            queries, keys, values, *logits = self.projected(x, *own)
            return queries, next(iter(logits), None), Read(keys, values)
        read = context if isinstance(context, Read) else self.read(x if context is None else context)
        names = gates if values_only else ("to_q", *gates)
        made = dict(zip(names, self.projected(x, *names), strict=True))
        return made.get("to_q"), made.get(GATES), read

    def projected(self, x: mx.array, *names: str) -> list[Projection]:
        """What some of the linears make of (B, T, in), (B, T, out) each: in one product where their weights are one
        array (`merged.py`); adapters beside them then start from what that has made."""
        known, start, parts = self._together(x, names), 0, list[Projection]()
        whole = as_one(self[known[0]], self["_merged"][" ".join(known)])(x) if known else x
        for name in known:
            linear, width = self[name], self._columns(name)
            part = Columns(whole, start, width)
            parts.append(part if isinstance(linear, PLAIN) else linear.from_base(x, part.apart()))
            start += width
        return [*parts, *(self[name](x) for name in names[len(known) :])]

    def _together(self, x: mx.array, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the names, from the first on, that are one product for these tokens (B, T, in)."""
        for known in (names, names[:-1]):
            if " ".join(known) in self.get("_merged", {}) and all(bare(self[name]) for name in known):
                narrow = GATES not in known and sum(map(self._columns, known)) <= WIDE
                return known if narrow or x.shape[1] <= TOKENS else ()
        return ()

    def _columns(self, name: str) -> int:
        return self.heads * (1 if name == GATES else self.head_dim)

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
        if shared is None or not any(isinstance(linear, AdaptedProjection) for linear in (self.to_k, self.to_v)):
            made_keys, made_values = self.projected(context, "to_k", "to_v")
            return Read(made_keys, made_values, counts)
        keys, values = (apart(x).astype(context.dtype) for x in (shared.keys, shared.values))
        return Read(_from_base(self.to_k, context, keys), _from_base(self.to_v, context, values), counts)

    def _mix(
        self, queries: Projection, read: Read, rope: Rope | None, key_rope: Rope | None, gates: Projection | None,
        done: Done, spread: Spread | None,
    ) -> mx.array:  # fmt: skip
        turned, keys = self.turned(queries, read.keys, rope, key_rope or rope)
        values = read.values
        if spread is not None:
            keys, values = spread.keys_and_values(keys, self._split(apart(values)))
            done((keys, values))  # they are on their way while the queries are made
        done((turned, keys, values.whole if isinstance(values, Columns) else values))
        if gates is None:
            values = values if isinstance(values, mx.array) and values.ndim == 4 else self._split(apart(values))
            return _attend_tokens(turned, keys, values, self.scale, read.counts)
        return attend_gated(turned, keys, values, gates, self.scale, read.counts)

    @property
    def scale(self) -> float:
        """Of the scores."""
        return self.head_dim**-0.5

    def turned_heads(self, projected: mx.array, norm: nn.RMSNorm, rope: Rope | None) -> mx.array:
        """Queries or keys as the scores take them: (B, T, H * D), normed as a whole, to heads (B, T, H, D), rotated."""
        return self._split(norm(projected)) if rope is None else turned_norm(projected, norm.weight, norm.eps, *rope)

    def turned(self, queries: Projection, keys: Projection, rope: Rope | None, key_rope: Rope | None) -> list[mx.array]:
        """Projected queries and keys, (B, T, H * D) each, as the scores take them: `turned_heads` of both.

        Where linears are merged this is one kernel. All others go as they always did, training's to the last bit.
        """
        if "_merged" not in self:
            asked = self.turned_heads(apart(queries), self.q_norm, rope)
            return [asked, self.turned_heads(apart(keys), self.k_norm, key_rope)]
        weights = self.q_norm.weight, self.k_norm.weight
        return turned_pair(queries, keys, weights, self.q_norm.eps, self.head_dim, rope, key_rope)

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
    queries: mx.array, keys: mx.array, values: Projection, gates: Projection, scale: float, counts: tuple[int, ...] = ()
) -> mx.array:
    """`attend` of (B, T, H, D), with each head's result multiplied by its gate.

    Args:
        queries: (B, T, H, D).
        keys: (C, S, H, D).
        values: The same, or (C, S, H * D).
        gates: (B, T, H), for `gate_heads`.
        scale: Of the products.
        counts: As for `attend`.
    """
    if gated_cuda.takes(queries, keys, values, gates):
        made: Any = _fused_attention(queries, keys, values, gates, scale)
        return made
    values = apart(values).reshape(*values.shape[:2], *keys.shape[2:])
    out = _attend_tokens(queries, keys, values, scale, counts)
    return gate_heads(out, gates)


def _attend_and_gate(
    queries: mx.array, keys: mx.array, values: Projection, gates: Projection, scale: float
) -> mx.array:
    values = apart(values).reshape(*values.shape[:2], *keys.shape[2:])
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
