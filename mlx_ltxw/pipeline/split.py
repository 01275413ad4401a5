"""One clip over several machines: who computes which part of a step, and how the parts come together.

| split | each machine has | gathered |
|---|---|---|
| `passes` | some guidance passes of each step | predictions, once a step; a pass that changes hands |
| `tokens` | some of the video's tokens | keys and values in every block |
| `tensor` | some heads and hidden columns of every block | sums, three to a block and stream |

All machines go through the same plan, hold the same latents after every step, and draw the same noise. With `passes`
the bits are those of one machine, and with `tokens` on a CPU (`same_bits.py`); with `tensor` sums are made of parts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlx_ltxw.models.transformer import Forward, Modality, Rotary, TransformerConfig, Walk
from mlx_ltxw.models.transformer.inputs import own_tokens
from mlx_ltxw.models.transformer.spread import Spread
from mlx_ltxw.models.transformer.tensor import TensorShare
from mlx_ltxw.models.transformer.walk import Streams
from mlx_ltxw.pipeline.guidance import Pass
from mlx_ltxw.pipeline.latents import Latents
from mlx_ltxw.pipeline.pass_shares import Handover, pass_shares
from mlx_ltxw.pipeline.same_bits import least_alike
from mlx_ltxw.world import ALONE, Turns, World, share_of

WHOLE, CLIPS, PASSES, TOKENS, TENSOR = "whole", "clips", "passes", "tokens", "tensor"
SPLITS = (CLIPS, PASSES, TOKENS, TENSOR)
"""What `--split` takes beside `auto`."""


@dataclass(frozen=True)
class Split:
    """How a run is split.

    Attributes:
        how: `whole`, `passes`, `tokens` or `tensor`; shared-out clips are whole.
        world: The machines.
        tiles: Whether they share the picture's tiles too, which the leading machine then takes to the last.
        turns: The collectives of a forward.
    """

    how: str = WHOLE
    world: World = ALONE
    tiles: bool = False
    turns: Turns = field(default_factory=lambda: Turns(ALONE), compare=False)

    @classmethod
    def of(cls, how: str, world: World, tiles: bool = False) -> Split:
        """A split over the machines of a world."""
        return cls(how, world, tiles, Turns(world))

    def own_passes(self, passes: Sequence[Pass], layers: int) -> list[Pass]:
        """Those that this machine computes, or begins."""
        if self.how != PASSES:
            return list(passes)
        shares = pass_shares(tuple(passes), layers, self.world.size)
        begun = shares.handover if shares.handover and shares.handover.giver == self.world.rank else None
        return [
            one
            for one, owner in zip(passes, shares.owners, strict=True)
            if owner == self.world.rank or (begun is not None and one.name == begun.name)
        ]

    def walked(self, walk: Walk, every: Sequence[Pass], own: Sequence[tuple[Pass, Forward]]) -> dict[str, Any]:
        """What the passes of this machine give, by name.

        Args:
            walk: How to go over the blocks.
            every: All passes of the step.
            own: Those of `own_passes`, each with its forward.
        """
        if not own:
            return {}
        layers = len(own[0][1].blocks)
        handover = pass_shares(tuple(every), layers, self.world.size).handover if self.how == PASSES else None
        if handover is None:
            made = walk.together([(forward, one.skips) for one, forward in own])
            return {one.name: result for (one, _), result in zip(own, made, strict=True)}
        return self._walked_with(walk, handover, own, layers)

    def _walked_with(
        self, walk: Walk, handover: Handover, own: Sequence[tuple[Pass, Forward]], layers: int
    ) -> dict[str, Any]:
        """As `walked`, with a pass that changes hands when the taker has done all of its own."""
        gives = self.world.rank == handover.giver
        pairs = [(forward, one.skips) for one, forward in own]
        names = [one.name for one, _ in own]
        pause = handover.pause if gives else layers
        first = [(0, pause) if name != handover.name else (0, handover.at if gives else 0) for name in names]
        streams = walk.stretch(pairs, [forward.streams for _, forward in own], first)
        changing = names.index(handover.name)
        taken = self._handed(streams[changing], gives, handover.giver)
        if not gives:
            streams[changing] = taken
        rest = (layers, layers) if gives else (handover.at, layers)
        second = [(pause, layers) if name != handover.name else rest for name in names]
        streams = walk.stretch(pairs, streams, second)
        ended = [number for number, name in enumerate(names) if not gives or name != handover.name]
        return {names[number]: own[number][1].finish(streams[number]) for number in ended}

    def _handed(self, streams: Streams, gives: bool, giver: int) -> Streams:
        """The giver's streams, of those of the same shapes that the taker has."""
        flat = mx.concatenate([stream.reshape(-1) for stream in streams])
        gathered = self.turns.gather(flat if gives else mx.zeros_like(flat))[giver]
        mx.async_eval(gathered)
        parts, at = [], 0
        for stream in streams:
            parts.append(gathered[at : at + stream.size].reshape(stream.shape))
            at += stream.size
        return tuple(parts)

    def all_passes(
        self, passes: Sequence[Pass], own: Mapping[str, Latents], like: Latents, layers: int
    ) -> dict[str, Latents]:
        """Every pass's prediction, by name, in the order of the passes.

        Args:
            passes: Of the step.
            own: What this machine has predicted.
            like: Latents of the same shapes.
            layers: Transformer blocks.
        """
        if self.how != PASSES:
            return {one.name: own[one.name] for one in passes}
        owners = pass_shares(tuple(passes), layers, self.world.size).owners
        rounds = max(owners.count(rank) for rank in owners)
        length = sum(stream.size for stream in like if stream is not None)
        mine = [_flat(own[one.name]) for one in passes if one.name in own]
        mine += [mx.zeros(length)] * (rounds - len(mine))
        gathered = self.turns.gather(mx.stack(mine))  # (machines, rounds, length)
        mx.eval(gathered)
        self.settle()
        places = [owners[:number].count(owner) for number, owner in enumerate(owners)]
        return {
            one.name: _shaped(gathered[owner, place], like)
            for one, owner, place in zip(passes, owners, places, strict=True)
        }

    @functools.cached_property
    def _spreads(self) -> dict[int, Spread]:
        return {}

    def shard(self, config: TransformerConfig) -> TensorShare | None:
        """Which of the transformer's weights this machine has; None for all."""
        return TensorShare.of(config.video.heads, self.world) if self.how == TENSOR else None

    def rotary(self, tables: Rotary | None, config: TransformerConfig) -> Rotary | None:
        """Rotation tables of this machine's heads."""
        shard = self.shard(config)
        return tables if shard is None or tables is None else shard.rotary(tables)

    def modality(self, video: Modality, forward: Callable[[Modality], Forward]) -> Modality:
        """This machine's tokens of the video.

        Args:
            video: All of them.
            forward: Describes the forward that takes them, or this machine's.
        """
        if self.how != TOKENS:
            return video
        tokens = video.latent.shape[1]
        if tokens not in self._spreads:
            self._spreads[tokens] = Spread(self.turns, tokens, least_alike(self.turns, video, forward))
        return own_tokens(video, self._spreads[tokens])

    def first(self, tokens: int) -> int:
        """This machine's first token of the video's."""
        return sum(share_of(tokens, self.world.size)[: self.world.rank]) if self.how == TOKENS else 0

    def whole(self, velocity: mx.array, video: Modality) -> mx.array:
        """The video's velocity (B, T, C), of that of this machine's tokens, which `modality` gave."""
        return velocity if video.spread is None else video.spread.whole(velocity)

    def settle(self) -> None:
        """After a pass is evaluated: nothing gathered stays in memory."""
        self.turns.settle()


WHOLE_RUN = Split()


def _flat(latents: Latents) -> mx.array:
    return mx.concatenate([stream.astype(mx.float32).reshape(-1) for stream in latents if stream is not None])


def _shaped(flat: mx.array, like: Latents) -> Latents:
    parts: list[mx.array | None] = []
    at = 0
    for stream in like:
        parts.append(None if stream is None else flat[at : at + stream.size].reshape(stream.shape))
        at += 0 if stream is None else stream.size
    video, audio, adapted = parts
    assert audio is not None
    return Latents(video, audio, adapted)
