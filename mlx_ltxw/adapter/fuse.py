"""Fuses adapters into the weights, by the official rule, bit for bit where two machines can agree.

For bf16 weights (`ltx_core/loader/fuse_loras.py`, 1.2.0): A and B are rounded to bf16; the first adapter's product is
`(B * strength) @ A` with B * strength rounded first; each further one adds `strength * (B @ A)`; each sum is rounded to
bf16, then the weight is added and rounded. Products are accumulated in fp32. Two correct implementations still differ
by one bf16 step where the order of summation tips a rounding (about one element in 10^5 at rank 32, measured).

Any other weight, or any change that is no plain LoRA, is summed in fp32 and rounded once. (The official code would
round fp32 weights to bf16.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.adapter.apply import (
    Adapters,
    Change,
    Changes,
    Network,
    SettledLinear,
    adaptable,
    by_module,
    set_beside,
)
from mlx_ltxw.adapter.deltas import Delta, LowRank, change, number
from mlx_ltxw.adapter.placing import Placement, place
from mlx_ltxw.adapter.streamed import ChangedBlocks, blocks_on_demand, by_block
from mlx_ltxw.models.transformer import Block
from mlx_ltxw.models.transformer.merged import filled_later, merge_again
from mlx_ltxw.tree import Linear, at, dense_weight, replace, share, size_of
from mlx_ltxw.weights.arriving import Arriving
from mlx_ltxw.weights.streaming import StreamedLayers


@dataclass(frozen=True)
class Fused(Generic[Network]):
    """A model with adapters in its weights.

    Attributes:
        model: Shares every array that the adapters leave alone.
        fused: Modules whose weights changed.
        unfused: Modules whose adapters stay beside the weights: quantised ones, and those that were to be kept.
        losses: Re-quantised module -> |what was stored - what was meant| / |the adapter's change|: 0 is exact, 1 means
            that the rounding is as large as the adapter itself.
    """

    model: Network
    fused: tuple[str, ...]
    unfused: tuple[str, ...]
    losses: dict[str, float]

    @property
    def loss(self) -> float:
        """Root mean square of `losses`, 0 without any."""
        return (sum(x * x for x in self.losses.values()) / max(1, len(self.losses))) ** 0.5

    @property
    def summary(self) -> str:
        """`fused into 576 weights; re-quantising cost 9.1 % of the adapter's change (worst 14 %: ...)`."""
        text = f"fused into {len(self.fused)} weights"
        if self.unfused:
            text += f", beside {len(self.unfused)}"
        if self.losses:
            worst = max(self.losses, key=self.losses.__getitem__)
            text += f"; re-quantising cost {self.loss:.2%} of the adapter's change"
            text += f" (worst {self.losses[worst]:.2%}: {worst})"
        return text


def fuse(
    model: Network,
    adapters: Adapters,
    placements: Sequence[Placement] | None = None,
    quantized: bool = False,
    keep_unfused: Callable[[str], bool] = lambda path: False,
    consume: bool = False,
) -> Fused[Network]:
    """The model with adapters in its weights.

    Args:
        model: Left as it is, unless consumed.
        adapters: Each with its strength, in the order the official loader would apply them.
        placements: Of each adapter in this model, if they have been made already.
        quantized: Fuse into quantised weights too, by dequantising and quantising again, which loses part of a small
            change; otherwise adapters stay beside them.
        keep_unfused: Of a module's path: whether its adapters stay beside it all the same.
        consume: Change `model` itself, where its own weights are needed no more: each goes as soon as it is fused, and
            of streamed blocks before the rest of its block is there.

    Raises:
        UserError: an adapter that does not fit, or a strength for a module it does not change.
    """
    if placements is None:
        placements = [place(adapter, model) for adapter, _ in adapters]
    changes = by_module(adapters, placements)
    result = model if consume else share(model)
    on_demand, fetched, coming = blocks_on_demand(result), dict[int, Any](), dict[int, Callable[[], object]]()
    used_up = consume and isinstance(on_demand, StreamedLayers)
    fused: list[str] = []
    losses: dict[str, float] = {}
    for prefix, own in by_block(changes).items():
        start = f"{prefix}." if prefix else ""
        kept = {path for path in own if keep_unfused(start + path)}
        options = own, quantized, kept.__contains__, consume
        if prefix and on_demand is not None:
            index = int(prefix.rpartition(".")[2])
            fetched[index] = partial(_fused_now if used_up else _fused_later, options)
            # What re-quantising costs is measured on the weights themselves; all else is known without them.
            block = fuse_changes(
                on_demand[index] if quantized else on_demand.layers[index], *options[:-1], later=not quantized
            )
        else:
            number = _arriving(result, prefix)
            if number is not None and quantized:
                result.transformer_blocks[number]  # waits for it
            later, base = number is not None and not quantized, at(result, prefix)
            block = fuse_changes(base, *options, later=later)
            if number is not None and later:
                coming[number] = filled_later(block.model, partial(_fused_again, options, base))
            for path in [prefix] if prefix else own:
                replace(result, path, at(block.model, path[len(prefix) :]))
        fused += [start + path for path in block.fused]
        losses |= {start + path: loss for path, loss in block.losses.items()}
        del block  # its arrays are not there beside those of the next one
    if fetched:
        result.transformer_blocks = ChangedBlocks(on_demand, fetched, used_up)
    if coming:
        result.transformer_blocks = result.transformer_blocks.then(coming)
    unfused = tuple(path for path in changes if path not in set(fused))
    return Fused(result, tuple(path for path in changes if path not in unfused), unfused, losses)


_Options = tuple[Changes, bool, Callable[[str], bool], bool]


def _fused_later(options: _Options, block: Block) -> Block:
    return fuse_changes(block, *options, later=True).model


def _fused_now(options: _Options, block: Block) -> Block:
    return fuse_changes(block, *options, measured=False).model


def _fused_again(options: _Options, block: Block) -> Block:
    """As often as it is interrupted: the block is left as it is."""
    return _fused_now(options, share(block))


def _arriving(model: nn.Module, prefix: str) -> int | None:
    """The number of a block that may still be on its way; None for what is there."""
    arriving = prefix and isinstance(model.transformer_blocks, Arriving)
    return int(prefix.rpartition(".")[2]) if arriving else None


def _nothing(*_: object) -> None:
    """Of sums that are made later."""


def fuse_changes(
    module: Network,
    changes: Changes,
    quantized: bool = False,
    keep_unfused: Callable[[str], bool] = lambda path: False,
    alone: bool = False,
    later: bool = False,
    measured: bool = True,
) -> Fused[Network]:
    """As `fuse`, for a block or a whole model; shares every array that the adapters leave alone.

    Args:
        module: Left as it is, unless nobody needs it and the sums are made now: each then takes the place of the old
            weight, the largest first, so that a module that is not computed yet never is as it was.
        changes: From `by_module` for a model, of one block from `by_block`.
        quantized: As for `fuse`.
        keep_unfused: Whether adapters of a linear, by its path in `module`, stay beside it.
        alone: Whether nobody needs the old weights (`merge_again`).
        later: Leave the sums for when they are used, and what re-quantising costs unmeasured.
        measured: Whether what re-quantising costs is measured.
    """
    clone = module if alone and not later else share(module)
    here = adaptable(clone)
    settled = {path for path in changes if isinstance(here[path], SettledLinear)}
    packed = settled | {path for path in changes if isinstance(here[path], nn.QuantizedLinear) and not quantized}
    unfused = {path: each for path, each in changes.items() if keep_unfused(path) or path in packed}
    fused = tuple(path for path in changes if path not in unfused)
    set_beside(clone, unfused)
    losses: dict[str, float] = {}
    for together in _largest_first({path: here[path] for path in fused}):
        for path in together:
            loss = _fuse_linear(here[path], changes[path], later, measured)
            if loss is not None:
                losses[path] = loss
        merge_again(clone, together, alone, later)
    return Fused(clone, fused, tuple(unfused), losses)


def _largest_first(linears: Mapping[str, Linear]) -> list[list[str]]:
    """Their paths, those of one module side by side."""
    modules: dict[str, list[str]] = {}
    for path in linears:
        modules.setdefault(path.rpartition(".")[0], []).append(path)
    return sorted(modules.values(), key=lambda paths: -sum(math.prod(size_of(linears[path])) for path in paths))


def fused_weight(
    weight: mx.array, deltas: Sequence[tuple[Delta, float]], done: Callable[[mx.array], None] = lambda total: None
) -> mx.array:
    """A weight (out, in) with changes at their strengths, in its own dtype; `done` is given each sum on the way."""
    if weight.dtype == mx.bfloat16 and all(isinstance(delta, LowRank) for delta, _ in deltas):
        fused = _official(deltas, done) + weight  # both bf16: rounded once more
    else:
        total = weight.astype(mx.float32)
        for delta, strength in deltas:
            total = total + strength * change(delta, weight)
            done(total)
        fused = total.astype(weight.dtype)
    return fused


def _official(deltas: Sequence[tuple[Delta, float]], done: Callable[[mx.array], None]) -> mx.array:
    """The official sum of low-rank products, (out, in) bf16."""
    total: mx.array | None = None
    for delta, strength in deltas:
        assert isinstance(delta, LowRank)
        a, b = (_widened(factor.astype(mx.bfloat16)) for factor in (delta.a, delta.b))
        strength = strength * delta.scale
        if total is None:
            total = (_widened((b * strength).astype(mx.bfloat16)) @ a).astype(mx.bfloat16)
        else:
            total = (_widened(total) + strength * (b @ a)).astype(mx.bfloat16)
        done(total)
    assert total is not None
    return total


def _fuse_linear(linear: Linear, changes: Sequence[Change], later: bool, measured: bool) -> float | None:
    """Puts changes into a linear, in place; for a quantised one the relative loss, if it is to be measured."""
    deltas = [(delta, strength) for delta, _, strength in changes if delta is not None]
    for _, bias, strength in changes:
        if bias is not None:
            old = linear.bias if "bias" in linear else mx.zeros(bias.shape, bias.dtype)
            linear.bias = (_widened(old) + strength * _widened(bias)).astype(old.dtype)
    loss, done = None, _nothing if later else mx.eval  # one product of factors at a time
    if deltas and isinstance(linear, nn.QuantizedLinear):
        if measured and not later:
            loss = _measured(linear, deltas)
        else:
            _pack(linear, fused_weight(dense_weight(linear), deltas, done))
    elif deltas:
        linear.weight = fused_weight(linear.weight, deltas, done)
    if not later:
        mx.eval(linear.parameters())
    return loss


def _measured(linear: nn.QuantizedLinear, deltas: Sequence[tuple[Delta, float]]) -> float:
    weight = dense_weight(linear)
    meant = fused_weight(weight, deltas)
    mx.eval(meant)
    _pack(linear, meant)
    error, size = mx.linalg.norm(dense_weight(linear) - meant), mx.linalg.norm(meant - weight)
    return number(error) / max(number(size), 1e-30)


def _pack(linear: nn.QuantizedLinear, weight: mx.array) -> None:
    packed = mx.quantize(weight.astype(linear.scales.dtype if linear.mode == "affine" else mx.bfloat16),
                         linear.group_size, linear.bits, mode=linear.mode)  # fmt: skip
    linear.weight, linear.scales = packed[:2]
    if len(packed) > 2:
        linear.biases = packed[2]


def _widened(x: mx.array) -> mx.array:
    return x.astype(mx.float32)
