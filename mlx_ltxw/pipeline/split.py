"""One clip over several machines: who computes which part of a step, and how the parts come together.

| split | each machine has | gathered |
|---|---|---|
| `passes` | some guidance passes of each step | each pass's prediction, once a step |
| `tokens` | some of the video's tokens | keys and values in every block |
| `tensor` | some heads and hidden columns of every block | sums, three to a block and stream |

All machines go through the same plan, hold the same latents after every step, and draw the same noise. With `passes`
the bits are those of one machine; with the others products have other shapes, and the last bits of a sum differ.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_ltxw.models.transformer import Modality, Rotary, TransformerConfig
from mlx_ltxw.models.transformer.inputs import own_tokens
from mlx_ltxw.models.transformer.spread import Spread
from mlx_ltxw.models.transformer.tensor import TensorShare
from mlx_ltxw.pipeline.guidance import Pass
from mlx_ltxw.pipeline.latents import Latents
from mlx_ltxw.world import ALONE, Turns, World

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

    def own_passes(self, passes: Sequence[Pass]) -> list[Pass]:
        """Those that this machine computes."""
        if self.how != PASSES:
            return list(passes)
        return list(passes[self.world.rank :: self.world.size])

    def all_passes(self, passes: Sequence[Pass], own: Mapping[str, Latents], like: Latents) -> dict[str, Latents]:
        """Every pass's prediction, by name, in the order of the passes.

        Args:
            passes: Of the step.
            own: What this machine has predicted.
            like: Latents of the same shapes.
        """
        if self.how != PASSES:
            return {one.name: own[one.name] for one in passes}
        size, streams = self.world.size, [stream for stream in like if stream is not None]
        rounds = -(-len(passes) // size)
        length = sum(stream.size for stream in streams)
        mine = [_flat(own[one.name]) for one in self.own_passes(passes)]
        mine += [mx.zeros(length)] * (rounds - len(mine))
        gathered = self.world.gather(mx.stack(mine))  # (machines, rounds, length)
        mx.eval(gathered)
        self.turns.bytes += gathered.nbytes * (size - 1) // size
        return {
            one.name: _shaped(gathered[number % size, number // size], like) for number, one in enumerate(passes)
        }  # fmt: skip

    def spread(self, tokens: int) -> Spread | None:
        """How the video's tokens lie over the machines; None where each has all."""
        return self._spread(tokens) if self.how == TOKENS else None

    @functools.cached_property
    def _spread(self) -> functools._lru_cache_wrapper[Spread]:
        return functools.lru_cache(8)(lambda tokens: Spread(self.turns, tokens))

    def shard(self, config: TransformerConfig) -> TensorShare | None:
        """Which of the transformer's weights this machine has; None for all."""
        return TensorShare.of(config.video.heads, self.world) if self.how == TENSOR else None

    def rotary(self, tables: Rotary | None, config: TransformerConfig) -> Rotary | None:
        """Rotation tables of this machine's heads."""
        shard = self.shard(config)
        return tables if shard is None or tables is None else shard.rotary(tables)

    def modality(self, video: Modality) -> Modality:
        """This machine's tokens of the video."""
        spread = self.spread(video.latent.shape[1])
        return video if spread is None else own_tokens(video, spread)

    def whole(self, velocity: mx.array, video: Modality) -> mx.array:
        """The video's velocity (B, T, C), of that of this machine's tokens."""
        spread = self.spread(video.latent.shape[1])
        return velocity if spread is None else spread.whole(velocity)

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
