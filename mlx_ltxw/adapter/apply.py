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

from mlx_ltxw.adapter.branches import Branch, FullBranch, LowRankBranch, branch_of
from mlx_ltxw.adapter.deltas import Delta, at_strength
from mlx_ltxw.adapter.formats import Adapter
from mlx_ltxw.adapter.names import tokens_of
from mlx_ltxw.adapter.placing import Placement, match, place
from mlx_ltxw.adapter.streamed import blocks_on_demand, change_each, changed_by_path
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.models.transformer import Block
from mlx_ltxw.models.transformer.attention import Attention, Read
from mlx_ltxw.models.transformer.rope import Rope
from mlx_ltxw.models.transformer.spread import Spread, window
from mlx_ltxw.models.transformer.walk import Done, nothing_done
from mlx_ltxw.tree import Linear, linears, replace, share

Adapters = Sequence[tuple[Adapter, Strength]]
Network = TypeVar("Network", bound=nn.Module)


class AdaptedLinear(nn.Module):
    """A linear with adapters beside it: `base(x) + gate * (branch(x) + ...)`.

    Args:
        base: The linear, plain or quantised; shared, never changed.
        branches: What the adapters add.
    """

    def __init__(self, base: Linear | SettledLinear, branches: Sequence[Branch]) -> None:
        super().__init__()
        self.base = base
        self.branches = list(branches)
        self._gate: mx.array | None = None
        self._first = 0

    def set_gate(self, gate: mx.array | None, first: int = 0) -> None:
        """Scales the addition token by token from now on.

        Args:
            gate: (T, 1), or any shape that fits (..., T, out); None for 1.
            first: Of the tokens that this machine has, where others have the rest.
        """
        self._gate = gate  # the underscore keeps it out of the parameters
        self._first = first

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out), in the base's output dtype."""
        return self.from_base(x, self.base(x))

    def from_base(self, x: mx.array, y: mx.array) -> mx.array:
        """As the call, for an input (..., in) whose base gave `y` (..., out)."""
        if self._gate is None:
            out = y
            for branch in self.branches:
                out = branch.added(out, x, y, self.base)
            return out
        update = self.branches[0](x, y, self.base)
        for branch in self.branches[1:]:
            update = update + branch(x, y, self.base)
        gate, tokens = self._gate, x.shape[-2]
        if gate.ndim > 1 and gate.shape[-2] not in (1, tokens):
            gate = gate[..., window(gate.shape[-2], self._first, tokens), :]
        return y + (update * gate.astype(update.dtype)).astype(y.dtype)


class SettledLinear(nn.Module):
    """A linear with adapters that belong to the base: further ones go beside it, as beside a bare linear.

    Unlike an `AdaptedLinear` it has no `from_base`: what another stream reads of the base has these in it already.
    """

    def __init__(self, adapted: AdaptedLinear) -> None:
        super().__init__()
        self.base, self.branches = adapted.base, adapted.branches

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out), in the base's output dtype."""
        out = y = self.base(x)
        for branch in self.branches:
            out = branch.added(out, x, y, self.base)
        return out


def settle(model: nn.Module) -> None:
    """Makes the adapters beside a model's linears a part of it, in place."""
    if blocks_on_demand(model) is not None:

        def settled(block: Block) -> Block:
            settle(block)
            return block

        change_each(model, settled)
    for path, linear in adapted_linears(model).items():
        replace(model, path, SettledLinear(linear))


def adaptable(model: nn.Module) -> dict[str, Linear | SettledLinear]:
    """Every linear that an adapter can act on, by its official path."""
    settled = {path: module for path, module in model.named_modules() if isinstance(module, SettledLinear)}
    inside = {f"{path}.base" for path in settled}
    return {path: linear for path, linear in linears(model).items() if path not in inside} | settled


def adapt(model: Network, adapters: Adapters, allow_partial: bool = False) -> Network:
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


def attach(model: Network, adapters: Adapters, placements: Sequence[Placement] | None = None) -> Network:
    """As `adapt`, for placements already made; without them, a fresh adapter of zeros is welcome too."""
    if placements is None:
        placements = [match(adapter, model) for adapter, _ in adapters]
    return changed_by_path(model, by_module(adapters, placements), attach_changes)


Change = tuple[Delta | None, mx.array | None, float]
"""What one adapter does to one module: the change, the addition to the bias, the strength."""

Changes = dict[str, list[Change]]
"""By a linear's path, in a model or in one block of it: what every adapter does to it, in the order given."""


def by_module(adapters: Adapters, placements: Sequence[Placement]) -> Changes:
    """By official path; modules of strength 0 are left out."""
    modules: Changes = {}
    for (adapter, strength), placement in zip(adapters, placements, strict=True):
        strength.check(adapter.targets, adapter.name)
        for path in placement.placed:
            value = strength.of(path)
            if value:
                modules.setdefault(path, []).extend(_changes(adapter, path, value))
    return modules


def attach_changes(module: Network, changes: Changes) -> Network:
    """A clone of a block, or of a whole model, with adapters beside its linears; shares every array.

    Args:
        module: Left as it is.
        changes: From `by_module` for a model, of one block from `by_block`.
    """
    clone = share(module)
    set_beside(clone, changes)
    return clone


def set_beside(module: nn.Module, changes: Changes) -> None:
    """As `attach_changes`, in the module itself."""
    here = adaptable(module)
    for path, each in changes.items():
        replace(module, path, AdaptedLinear(here[path], _branches(each, here[path])))


class BlendedRead(Read):
    """What the bare attention has read, and with it what the adapted one has.

    Attributes:
        adapted: The adapted attention's.
    """

    adapted: Read

    @classmethod
    def of(cls, base: Read, adapted: Read) -> BlendedRead:
        """Both."""
        both = cls(*base)
        both.adapted = adapted
        return both


def _changes(adapter: Adapter, path: str, strength: float) -> Iterator[Change]:
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
    computed instead. At gate 0 a token reads exactly what the base reads, at 1 what the adapter does.

    Args:
        adapted: The attention with `AdaptedLinear`s; left as it is.
        gate: (T, 1).
    """

    compiles = False
    """What it reads is more than a tuple of arrays."""

    def __init__(self, adapted: Attention, gate: mx.array) -> None:
        super().__init__()
        self.adapted = adapted
        self._bare = _bare(adapted)  # its arrays are those of `adapted`
        self._gate = gate

    def __call__(
        self,
        x: mx.array,
        context: Read | None = None,
        rope: Rope | None = None,
        key_rope: Rope | None = None,
        values_only: bool = False,
        done: Done = nothing_done,
        spread: Spread | None = None,
    ) -> mx.array:
        """As the attention, (B, T, D) -> (B, T, D), of what `read` gave."""
        assert isinstance(context, BlendedRead)
        base = self._bare(x, context, rope, key_rope, values_only, done, spread)
        adapted = self.adapted(x, context.adapted, rope, key_rope, values_only, done, spread)
        return base + self._gate.astype(base.dtype) * (adapted - base)

    def read(self, context: mx.array, shared: Read | None = None, counts: tuple[int, ...] = ()) -> BlendedRead:
        """As the attention, without and with the adapter."""
        base = self._bare.read(context) if shared is None else shared
        return BlendedRead.of(base._replace(counts=counts), self.adapted.read(context, base, counts))


def adapted_linears(model: nn.Module) -> dict[str, AdaptedLinear]:
    """Every wrapped linear, by its official path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, AdaptedLinear)}


def round_factors(model: nn.Module, dtype: mx.Dtype) -> None:
    """Rounds the factors of an adapted model's LoRAs, alone or in a DoRA, to its activations' dtype, for all calls."""
    mx.eval(_round_factors(model, dtype))
    if blocks_on_demand(model) is not None:

        def rounded(block: Block) -> Block:
            _round_factors(block, dtype)
            return block

        change_each(model, rounded)


def _round_factors(model: nn.Module, dtype: mx.Dtype) -> list[mx.array]:
    factors = []
    for branch in model.modules():
        if isinstance(branch, LowRankBranch):
            branch.lora_A, branch.lora_B = branch.lora_A.astype(dtype), branch.lora_B.astype(dtype)
            factors += [branch.lora_A, branch.lora_B]
    return factors


def set_gates(
    model: nn.Module, audio: mx.array | None = None, video: mx.array | None = None, first: int = 0
) -> None:  # fmt: skip
    """Scales the adapter token by token, so that its strength can change within a clip.

    A linear is gated by the tokens it reads: queries and outputs of the audio attentions by `audio`; keys and values of
    `video_to_audio_attn` by `video`. The text has no time: `audio_attn2` becomes a `BlendedAttention`.

    Args:
        model: An adapted model; its base is not concerned.
        audio: (Ta, 1) strengths of the audio tokens, None for 1.
        video: (Tv, 1) of the video tokens.
        first: Of the video tokens that this machine has, where others have the rest.
    """
    if blocks_on_demand(model) is not None:

        def gated(block: Block) -> Block:
            alone: Any = nn.Module()
            alone.transformer_blocks = [block]
            set_gates(alone, audio, video, first)
            return alone.transformer_blocks[0]

        change_each(model, gated)  # what lies outside the blocks follows here
    _unblend(model)
    gates = {"audio": audio, "video": video}
    wrapped = adapted_linears(model)
    texts = {path[: path.index(_TEXT_ATTENTION) - 1] for path in wrapped if _TEXT_ATTENTION in path}
    for path, linear in wrapped.items():
        tokens = tokens_of(path)
        linear.set_gate(None if _TEXT_ATTENTION in path else gates.get(tokens), first if tokens == "video" else 0)
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


def _branches(changes: Sequence[Change], base: Linear | SettledLinear) -> list[Branch]:
    branches: list[Branch] = []
    for delta, bias, strength in changes:
        if delta is not None:
            branches.append(branch_of(delta, base, strength))
        if bias is not None:
            branches.append(FullBranch(None, bias, strength))
    return branches
