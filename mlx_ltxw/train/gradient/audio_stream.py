"""Loss and gradient of the adapted audio stream under the exact video lock.

The video, and the base audio that it reads, run ahead block by block (`Transformer.watch`). The stream that is trained
follows, and its blocks are then walked back by hand (`pullbacks`). It could be left to `mx.grad`; but MLX fuses nothing
inside a gradient and evaluates nothing before all of it has been described, and this stream is so narrow that a GPU
then waits for the host. For the same reason a block's two ways may each be a compiled function (`traced`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from mlx_ltxw.adapter.branches import LowRankBranch
from mlx_ltxw.models.ops.cuda import many
from mlx_ltxw.models.transformer import Call, Modality, Shared, Transformer, Walk
from mlx_ltxw.models.transformer.block import Block, StreamState
from mlx_ltxw.models.transformer.feed_forward import FeedForward
from mlx_ltxw.models.transformer.inputs import BlockSkips
from mlx_ltxw.models.transformer.rope import Rope
from mlx_ltxw.models.transformer.walk import Done, Streams
from mlx_ltxw.train.gradient.blocks import IN_MEMORY, WholeBlocks
from mlx_ltxw.train.gradient.pullbacks import Gradients, Pullback, attend, feed_forward, gated_sum, modulated_norm
from mlx_ltxw.train.gradient.recompute import CastLinear
from mlx_ltxw.tree import replace, share


class BlockPass(Protocol):
    """A block's way there, with its pullback, as `audio_block`."""

    def __call__(
        self, block: Block, x: mx.array, shared: Shared, video_rope: Rope | None, state: StreamState,
        gradients: Gradients, /,
    ) -> tuple[mx.array, Pullback]: ...  # fmt: skip


def gradient(
    model: Transformer,
    audio: Modality,
    video: Modality | None,
    watched: Iterable[Shared],
    loss: Callable[[mx.array], mx.array],
    again: bool,
    walk: Walk,
    call: Call | None = None,
    whole: WholeBlocks = IN_MEMORY,
) -> tuple[mx.array, Gradients]:
    """Loss and gradient of all LoRA factors of a model's audio stream.

    Args:
        model: With one LoRA beside each trained linear of its audio attentions.
        audio: The stream.
        video: What it reads; its `sigma` sets the gates, as many as the audio's. None: sound alone.
        watched: One a block (`Transformer.watch`), `Shared()` for sound alone. Without its text where the audio's
            noise level or batch is another one.
        loss: Of the velocity (B, Ta, C), a scalar.
        again: Gradient checkpointing: of each block keep its input and the video's alone, and compute it again.
        walk: How to go over the blocks, forwards and back. Submitting block by block lets the device begin while the
            next block is described, or keeps no more than a block in memory at a time; inside a compiled function
            nothing may be submitted.
        call: Calls a block's two ways as compiled functions (`traced`); None to describe each block anew.
        whole: Where blocks come from; with a call they are in memory.

    Returns:
        The loss, and the gradients of the factors.
    """
    state = model.audio_state(audio, video)
    rope = None if video is None else video.rotary.cross
    videos, blocks = iter(watched), []
    run: BlockPass = partial(traced, call, again) if call else partial(computed_again, whole) if again else audio_block

    def step(block: Block, streams: Streams, _: BlockSkips, done: Done) -> Streams:
        (x,), shared, own = streams, next(videos), Gradients()
        after, back = run(block if again else whole.there(block), x, shared, rope, state, own)
        blocks.append((back, own))
        return (after,)

    (x,) = walk.through(model.transformer_blocks, step, (model.audio_patchify_proj(audio.latent),))
    value, cotangent = mx.value_and_grad(lambda x: loss(model.audio_head(x, state)))(x)
    gradients, submissions = Gradients(), walk.submissions()
    while blocks:
        back, own = blocks.pop()
        cotangent = back(cotangent)
        gradients |= own
        factors = [factor for pair in own.values() for factor in pair]
        # A block's own gradients before the chain goes on: left for later, each would keep the block in memory.
        cotangent = mx.depends([cotangent], factors)[0] if factors else cotangent
        submissions.add(cotangent if blocks else factors)
    return value, gradients


def audio_block(
    block: Block, x: mx.array, shared: Shared, video_rope: Rope | None, state: StreamState, gradients: Gradients
) -> tuple[mx.array, Pullback]:
    """`Block.audio_stream` (B, Ta, Da), with its pullback.

    Args:
        block: With LoRAs beside its trained linears.
        x: The stream (B, Ta, Da).
        shared, video_rope, state: As for `Block.audio_updates`.
        gradients: Takes those of the block's factors when the pullback runs.
    """
    backs = []
    for network, (shift, scale, gate), eps, attending in block.audio_updates(state, shared, video_rope):
        h, norm_back = modulated_norm(x, scale, shift, eps, gradients)
        if isinstance(network, FeedForward):
            change, change_back = feed_forward(network, h, gradients)
        else:
            change, change_back = attend(network, h, gradients, attending)
        x, gate_back = gated_sum(x, change, gate, gradients)
        backs.append((norm_back, change_back, gate_back))
        del h, change

    def back(cotangent: mx.array) -> mx.array:
        while backs:
            norm_back, change_back, gate_back = backs.pop()
            cotangent = norm_back(change_back(gate_back(cotangent)), cotangent)
        gradients.multiplied()
        return cotangent

    return x, back


def computed_again(
    whole: WholeBlocks, block: Block, x: mx.array, shared: Shared, video_rope: Rope | None, state: StreamState,
    gradients: Gradients,
) -> tuple[mx.array, Pullback]:  # fmt: skip
    """As `audio_block`, but that the pullback computes the block again when its turn comes, and not before.

    Args:
        whole: Where the block comes from, each time.
        block, x, shared, video_rope, state, gradients: As for `audio_block`.
    """
    after, _ = audio_block(whole.there(block), x, shared, video_rope, state, gradients)
    inputs = _Inputs.of(x, shared, state)

    def back(cotangent: mx.array) -> mx.array:
        x, shared, own = inputs.after(cotangent, state)
        _, pullback = audio_block(whole.back(block), x, shared, video_rope, own, gradients)
        return pullback(cotangent)

    return after, back


def traced(
    call: Call, again: bool, block: Block, x: mx.array, shared: Shared, video_rope: Rope | None, state: StreamState,
    gradients: Gradients,
) -> tuple[mx.array, Pullback]:  # fmt: skip
    """As `audio_block` or `computed_again`, but that both ways are functions of arrays, each called as it may be.

    Args:
        call: How they are called.
        again: Whether nothing goes from one to the other.
        block, x, shared, video_rope, state, gradients: As for `audio_block`.
    """
    kept: list[Any] | None = None
    given: Callable[[mx.array], tuple[mx.array, Shared, StreamState]]
    if again:
        after = call(_made, block, x, shared, video_rope, state)
        given = partial(_Inputs.of(x, shared, state).after, state=state)
    else:
        after, kept = call(_there, block, x, shared, video_rope, state)
        given = partial(_as_they_were, x, tree_map(_stand_in, shared), state)

    def back(cotangent: mx.array) -> mx.array:
        own, read, at = given(cotangent)
        onwards, pairs = call(_back, block, own, read, video_rope, at, kept, cotangent)
        branches = (id(branch) for branch in _branches(block))
        gradients.update((branch, pair) for branch, pair in zip(branches, pairs, strict=True) if pair)
        return onwards

    return after, back


def _as_they_were(
    x: mx.array, shared: Shared, state: StreamState, cotangent: mx.array
) -> tuple[mx.array, Shared, StreamState]:
    """Arguments of a way back that computes nothing from them."""
    return x, shared, state


def _stand_in(leaf: Any) -> Any:
    """In place of what is described, but not computed, so that it is let go of."""
    return mx.zeros_like(leaf) if isinstance(leaf, mx.array) else leaf


class _Inputs(NamedTuple):
    """All that a block which is computed again holds on to."""

    x: mx.array
    context: mx.array
    video: mx.array | None

    @classmethod
    def of(cls, x: mx.array, shared: Shared, state: StreamState) -> _Inputs:
        return cls(x, state.context, shared.video)

    def after(self, cotangent: mx.array, state: StreamState) -> tuple[mx.array, Shared, StreamState]:
        """The block's arguments, none of which is there before the cotangent is."""
        x, context, *video = mx.depends([each for each in self if each is not None], [cotangent])
        return x, Shared(*video), state._replace(context=context)


class _Keeping(Gradients):
    """Of the way there: lists what is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []

    def keep(self, value: Any) -> Any:
        self.kept.append(value)
        return value


class _Kept(Gradients):
    """Of the way back: in place of what the way there kept it gives that, so that whatever led to it is not computed.

    Args:
        kept: In the order in which it was kept.
    """

    def __init__(self, kept: Iterable[Any]) -> None:
        super().__init__()
        self._kept = iter(kept)

    def keep(self, value: Any) -> Any:
        return next(self._kept)


def _made(
    block: Block, x: mx.array, shared: Shared, video_rope: Rope | None, state: StreamState, done: Done
) -> mx.array:  # fmt: skip
    block = _cast(block, x.dtype, shared, read=True)
    return audio_block(block, x, shared, video_rope, state, Gradients())[0]


def _there(
    block: Block, x: mx.array, shared: Shared, video_rope: Rope | None, state: StreamState, done: Done
) -> tuple[mx.array, list[Any]]:
    """What the block makes of `x`, and what the way back has use for."""
    keeping = _Keeping()
    block = _cast(block, x.dtype, shared, read=True)
    after, _ = audio_block(block, x, shared, video_rope, state, keeping)
    return after, keeping.kept


def _back(
    block: Block, x: mx.array, shared: Shared, video_rope: Rope | None, state: StreamState, kept: list[Any] | None,
    cotangent: mx.array, done: Done,
) -> tuple[mx.array, list[tuple[mx.array, mx.array] | None]]:  # fmt: skip
    """The cotangent of the block's input, and the gradients of its branches, in their order; None where none is."""
    gradients = Gradients() if kept is None else _Kept(kept)
    block = _cast(block, x.dtype, shared, read=kept is None)
    _, pullback = audio_block(block, x, shared, video_rope, state, gradients)
    onwards = pullback(cotangent)
    return onwards, [gradients.get(id(branch)) for branch in _branches(block)]


def _cast(block: Block, dtype: mx.Dtype, shared: Shared, read: bool) -> Block:
    """The block with the weights of its audio stream cast in one kernel, those that are multiplied with.

    Args:
        block: Left as it is.
        dtype: Of the stream.
        shared: What it need not read of text and video.
        read: Whether it reads either at all.
    """
    known = {"audio_attn2": shared.text, "video_to_audio_attn": shared.read}
    unread = [f"{name}.to_{part}" for name, found in known.items() if found or not read for part in "kv"]
    unread += ["video_to_audio_attn."] * (shared.video is None)
    layers = {
        path: layer for path, layer in block.named_modules()
        if isinstance(layer, CastLinear) and path.startswith(_AUDIO) and not path.startswith(tuple(unread))
    }  # fmt: skip
    if not layers:
        return block
    block = share(block)
    for (path, layer), weight in zip(
        layers.items(), many.cast([layer.weight for layer in layers.values()], dtype), strict=True
    ):
        plain = nn.Linear(1, 1)
        plain.weight, plain.bias = weight, layer.bias
        replace(block, path, plain)
    return block


_AUDIO = ("audio_attn1.", "audio_attn2.", "video_to_audio_attn.", "audio_ff.")
"""What `Block.audio_updates` multiplies with."""


def _branches(part: Any) -> list[LowRankBranch]:
    """Those in a module tree; `named_modules` takes 20 times as long."""
    if isinstance(part, LowRankBranch):
        return [part]
    parts = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return [branch for each in parts if not isinstance(each, mx.array) for branch in _branches(each)]
