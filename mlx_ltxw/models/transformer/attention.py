"""Multi-head attention with RMS-normed queries and keys, split RoPE and a gate per head.

Source: `ltx_core/model/transformer/attention.py:Attention.forward`, `ops.py`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models import ops
from mlx_ltxw.models.transformer.rope import Rope, apply_split_rope
from mlx_ltxw.models.transformer.walk import Done, nothing_done


@mx.compile
def gate_heads(out: mx.array, logits: mx.array) -> mx.array:
    """Scales each head by `2 sigmoid(logit)`: (B, T, H, D) by (B, T, H)."""
    gates = 2.0 * mx.sigmoid(logits.astype(mx.float32))
    return (out.astype(mx.float32) * gates[..., None]).astype(out.dtype)


class Read(NamedTuple):
    """What an attention read of its context: keys before their norm and rotation, and values; (B, S, heads * D)."""

    keys: mx.array
    values: mx.array


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
    ) -> mx.array:
        """Attends from `x` to `context`.

        Args:
            x: (B, T, query_dim).
            context: (B, S, context_dim), or (B / n, S, context_dim) where n in a row share one; or what `read` gave for
                it; `x` itself when None.
            rope: Rotation of the queries, and of the keys unless `key_rope` is given. None: no rotation.
            key_rope: Rotation of the keys.
            values_only: The spatio-temporal-guidance perturbation: the values pass as they are, unattended.

        Returns:
            (B, T, query_dim).
        """
        keys, values = context if isinstance(context, Read) else self.read(x if context is None else context)
        values = self._split(values)
        out = values if values_only else self._mix(x, keys, values, rope, key_rope, done)
        if "to_gate_logits" in self:
            out = gate_heads(out, self.to_gate_logits(x))
        return self.to_out[0](out.reshape(*x.shape[:2], -1))

    def read(self, context: mx.array, shared: Read | None = None) -> Read:
        """Keys and values of a context.

        Args:
            context: (B, S, context_dim).
            shared: What the attention that this one was adapted from read of the very same context, in any dtype. A
                linear with an adapter beside it adds to that, and does not compute it again.
        """
        if shared is None:
            return Read(self.to_k(context), self.to_v(context))
        keys, values = (x.astype(context.dtype) for x in shared)
        return Read(_from_base(self.to_k, context, keys), _from_base(self.to_v, context, values))

    def _mix(
        self,
        x: mx.array,
        keys: mx.array,
        values: mx.array,
        rope: Rope | None,
        key_rope: Rope | None,
        done: Done,
    ) -> mx.array:
        queries = self.turned_heads(self.to_q(x), self.q_norm, rope)
        keys = self.turned_heads(keys, self.k_norm, key_rope or rope)
        done((queries, keys, values))
        keys, values = for_each_query(keys, len(queries)), for_each_query(values, len(queries))
        out = ops.attention(
            queries.transpose(0, 2, 1, 3),  # (B, H, T, D)
            keys.transpose(0, 2, 1, 3),
            values.transpose(0, 2, 1, 3),
            scale=self.scale,
        )
        return out.transpose(0, 2, 1, 3)

    @property
    def scale(self) -> float:
        """Of the scores."""
        return self.head_dim**-0.5

    def turned_heads(self, projected: mx.array, norm: nn.RMSNorm, rope: Rope | None) -> mx.array:
        """Queries or keys as the scores take them: (B, T, H * D), normed as a whole, to heads (B, T, H, D), rotated."""
        heads = self._split(norm(projected))
        return heads if rope is None else apply_split_rope(heads, *rope)

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], self.heads, self.head_dim)  # (B, T, H, D)


def for_each_query(context: mx.array, batch: int) -> mx.array:
    """Keys or values (B / n, S, ...) of contexts that n queries in a row share, once for each of B."""
    return context if len(context) == batch else mx.repeat(context, batch // len(context), axis=0)


def _from_base(linear: nn.Module, x: mx.array, y: mx.array) -> mx.array:
    """What a linear makes of `x`, given what it makes of it without its adapters."""
    return linear.from_base(x, y) if isinstance(linear, AdaptedProjection) else linear(x)
