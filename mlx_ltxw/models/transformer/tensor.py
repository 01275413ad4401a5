"""One transformer over several machines, each with a share of every block's weights (tensor parallelism).

Each machine has some of the heads of every attention and some of the hidden columns of every feed-forward network: rows
of the linears that lead there, columns of those that lead back. What comes out is a part of a sum over the machines
(Megatron-LM, arXiv:1909.08053). MLX's own sharded layers do the same for plain linears, but not for norms that span all
heads, and adapters could not be set beside them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.ops.columns import Projection, apart
from mlx_ltxw.models.transformer.attention import Attention
from mlx_ltxw.models.transformer.feed_forward import FeedForward
from mlx_ltxw.models.transformer.inputs import Rotary
from mlx_ltxw.models.transformer.model import Transformer
from mlx_ltxw.models.transformer.rope import Rope, apply_split_rope
from mlx_ltxw.tree import linears, size_of
from mlx_ltxw.world import Turns, World, share_of

ROWS, COLUMNS = "rows", "columns"
NOT_PACKED: Mapping[str, Any] = {}
"""The packing of a linear that is not quantised."""

_ATTENTION = r"transformer_blocks\.\d+\.\w*attn\w*\."
_HEADS_OUT = re.compile(_ATTENTION + r"(to_q|to_k|to_v|to_gate_logits|q_norm|k_norm)$")
_HEADS_IN = re.compile(_ATTENTION + r"to_out\.0$")
_HIDDEN_OUT = re.compile(r"transformer_blocks\.\d+\.(audio_)?ff\.net\.0\.proj$")
_HIDDEN_IN = re.compile(r"transformer_blocks\.\d+\.(audio_)?ff\.net\.2$")


@dataclass(frozen=True)
class Portion:
    """A machine's part of one axis: from `start` to `stop` of `total`."""

    start: int
    stop: int
    total: int

    def of(self, length: int, unit: int = 1) -> slice:
        """The same part of an axis of another length, widened to whole units."""
        start, stop = length * self.start // self.total, length * self.stop // self.total
        return slice(start // unit * unit, -(-stop // unit) * unit)


@dataclass(frozen=True)
class TensorShare:
    """Which weights of a transformer a machine has.

    Attributes:
        heads: Of all attentions; the same number in both streams.
        hidden: Of the feed-forward networks, in groups that stay together.
        first: Whether biases that are added to a sum are this machine's.
    """

    heads: Portion
    hidden: Portion
    first: bool

    @classmethod
    def of(cls, heads: int, world: World, hidden: int = 64) -> TensorShare:
        """The share of a machine.

        Args:
            heads: Of the transformer.
            world: The machines.
            hidden: Groups of hidden columns.

        Raises:
            UserError: there are more machines than heads.
        """
        if world.size > min(heads, hidden):
            raise UserError(
                f"{heads} heads cannot be shared out among {world.size} machines.",
                f"Start {min(heads, hidden)} or fewer, or give {{field:split=tokens}}.",
            )
        return cls(_part(heads, world), _part(hidden, world), world.leads)

    def part_of(self, path: str) -> tuple[str, Portion] | None:
        """What a machine has of a linear or norm: some rows or some columns; None where it has all of it."""
        for pattern, axis, part in (
            (_HEADS_OUT, ROWS, self.heads), (_HEADS_IN, COLUMNS, self.heads),
            (_HIDDEN_OUT, ROWS, self.hidden), (_HIDDEN_IN, COLUMNS, self.hidden),
        ):  # fmt: skip
            if pattern.match(path):
                return axis, part
        return None

    def cut(
        self, name: str, shape: tuple[int, ...], packing: Mapping[str, Any] = NOT_PACKED
    ) -> tuple[slice, ...] | None:
        """Which of a parameter a machine has, by its path; None for all.

        Of packed weights no group is cut: where a share ends inside of one, both machines have it, and what is not
        their own of it meets zeros (`padding`). The bias of a sum is all its first machine's, and zeros on the others
        (`keeps`).

        Args:
            name: Its path.
            shape: Of the parameter.
            packing: `group_size` and `bits` of a quantised linear.
        """
        path, _, leaf = name.rpartition(".")
        found = self.part_of(path)
        if found is None or (found[0] == COLUMNS and leaf == "bias"):
            return None
        axis, part = found
        if axis == ROWS:
            return (part.of(shape[0]),)
        if not packing:
            return slice(None), part.of(shape[1])
        inputs = shape[1] * 32 // packing["bits"] if leaf == "weight" else shape[1] * packing["group_size"]
        held = part.of(inputs, packing["group_size"])
        return slice(None), slice(held.start * shape[1] // inputs, held.stop * shape[1] // inputs)

    def held(self, path: str, width: int, packing: Mapping[str, Any] = NOT_PACKED) -> slice:
        """Which inputs, of `width`, a machine has weights for, of a linear of which it has some columns."""
        found = self.part_of(path)
        assert found is not None
        return found[1].of(width, packing.get("group_size", 1))

    def own(self, path: str, width: int, packing: Mapping[str, Any] = NOT_PACKED) -> slice:
        """Which of the inputs that it has weights for (`held`) are its own, and no other machine's."""
        held, own = self.held(path, width, packing), self.held(path, width)
        return slice(own.start - held.start, own.stop - held.start)

    def beside(self, path: str, width: int, packing: Mapping[str, Any] = NOT_PACKED) -> tuple[int, int]:
        """How many inputs it has weights for before and behind its own."""
        held, own = self.held(path, width, packing), self.held(path, width)
        return own.start - held.start, held.stop - own.stop

    def keeps(self, name: str) -> bool:
        """Whether a parameter's values are used here, and not zeros in their place."""
        path, _, leaf = name.rpartition(".")
        found = self.part_of(path)
        return self.first or leaf != "bias" or found is None or found[0] == ROWS

    def rotary(self, tables: Rotary) -> Rotary:
        """The tables of a machine's heads."""
        own = self.heads.of(self.heads.total)

        def cut(rope: Rope) -> Rope:
            return rope[0][:, :, own], rope[1][:, :, own]

        return Rotary(cut(tables.own), cut(tables.cross))


class TensorAttention(Attention):
    """An attention of some of the heads: its result is summed over the machines, and so are its norms' squares."""

    _turns: Turns
    _inner: int
    _beside: tuple[int, int]

    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        return self._turns.sum(super().__call__(*args, **kwargs))

    def project_out(self, x: mx.array) -> mx.array:
        """As the whole attention, of this machine's heads."""
        return super().project_out(_padded(x, self._beside))

    def turned(self, queries: Projection, keys: Projection, rope: Rope | None, key_rope: Rope | None) -> list[mx.array]:
        """As the whole attention, whose norms span all heads; the squares of both take one collective."""
        queries, keys = apart(queries), apart(keys)
        wide = queries.astype(mx.float32), keys.astype(mx.float32)
        squares = [mx.sum(x * x, axis=-1) for x in wide]  # (B, T), (C, S)
        sizes = squares[0].size
        total = self._turns.sum(mx.concatenate([square.reshape(-1) for square in squares]))
        sums = total[:sizes].reshape(squares[0].shape), total[sizes:].reshape(squares[1].shape)
        normed = (
            _scaled(queries, sums[0], self.q_norm, self._inner), _scaled(keys, sums[1], self.k_norm, self._inner)
        )  # fmt: skip
        heads = (self._split(each) for each in normed)
        return [x if by is None else apply_split_rope(x, *by) for x, by in zip(heads, (rope, key_rope), strict=True)]


class TensorFeedForward(FeedForward):
    """A feed-forward network of some of the hidden columns."""

    _turns: Turns

    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        return self._turns.sum(super().__call__(*args, **kwargs))


class Padding(nn.Module):
    """Zeros beside (..., dim): inputs of packed weights that are another machine's too."""

    def __init__(self, beside: tuple[int, int]) -> None:
        super().__init__()
        self._beside = beside

    def __call__(self, x: mx.array) -> mx.array:
        return _padded(x, self._beside)


def shard_transformer(network: Transformer, shard: TensorShare, turns: Turns) -> None:
    """Makes a transformer one of a machine's share, in place; arrays that are not computed yet never are.

    Args:
        network: Whole, with its quantised layers.
        shard: The share.
        turns: The machines.
    """
    heads = shard.heads.stop - shard.heads.start
    beside = {
        path: shard.beside(path, size_of(linear)[1], packing_of(linear))
        for path, linear in linears(network).items()
        if (shard.part_of(path) or (ROWS,))[0] == COLUMNS
    }
    for path, module in network.named_modules():
        if isinstance(module, Attention) and path.startswith("transformer_blocks."):
            module.__class__ = TensorAttention
            module._inner = module.heads * module.head_dim
            module.heads = heads
            module._turns, module._beside = turns, beside[f"{path}.to_out.0"]
        elif isinstance(module, FeedForward):
            module.__class__ = TensorFeedForward
            module._turns = turns
            module.net[1] = Padding(beside[f"{path}.net.2"])
    for path, module in network.named_modules():
        if shard.part_of(path) is None:
            continue
        packing = packing_of(module)
        for leaf, value in list(module.items()):
            if isinstance(value, mx.array) and (cut := shard.cut(f"{path}.{leaf}", value.shape, packing)):
                module[leaf] = value[cut]


def packing_of(module: nn.Module) -> Mapping[str, Any]:
    """`group_size` and `bits` of a quantised linear; nothing of any other module."""
    if isinstance(module, nn.QuantizedLinear):
        return {"group_size": module.group_size, "bits": module.bits}
    return NOT_PACKED


def kept(arrays: Mapping[str, mx.array], shard: TensorShare) -> dict[str, mx.array]:
    """Parameters by path, with zeros for those whose values another machine adds."""
    return {name: array if shard.keeps(name) else mx.zeros_like(array) for name, array in arrays.items()}


def _padded(x: mx.array, beside: tuple[int, int]) -> mx.array:
    return mx.pad(x, [(0, 0)] * (x.ndim - 1) + [beside]) if any(beside) else x


def _scaled(x: mx.array, squares: mx.array, norm: nn.RMSNorm, inner: int) -> mx.array:
    scale = mx.rsqrt(squares / inner + norm.eps)[..., None]
    return (x.astype(mx.float32) * scale * norm.weight.astype(mx.float32)).astype(x.dtype)


def _part(total: int, world: World) -> Portion:
    counts = share_of(total, world.size)
    ends = [*itertools.accumulate(counts)]
    return Portion(ends[world.rank] - counts[world.rank], ends[world.rank], total)
