"""Loss and gradient of the adapted audio stream under the exact video lock.

The video, and the base audio that it reads, run ahead block by block (`Transformer.watch`). The stream that is trained
follows, and its blocks are then walked back by hand (`pullbacks`). It could be left to `mx.grad`; but MLX fuses nothing
inside a gradient and evaluates nothing before all of it has been described, and this stream is so narrow that a GPU
then waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import mlx.core as mx

from mlx_ltxw.models.transformer import Modality, Shared, Transformer, Walk
from mlx_ltxw.models.transformer.block import Block, StreamState
from mlx_ltxw.models.transformer.feed_forward import FeedForward
from mlx_ltxw.models.transformer.inputs import BlockSkips
from mlx_ltxw.models.transformer.rope import Rope
from mlx_ltxw.models.transformer.walk import Done, Streams
from mlx_ltxw.train.gradient.pullbacks import Gradients, Pullback, attend, feed_forward, gated_sum, modulated_norm


def gradient(
    model: Transformer,
    audio: Modality,
    video: Modality | None,
    watched: Iterable[Shared],
    loss: Callable[[mx.array], mx.array],
    again: bool,
    walk: Walk,
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

    Returns:
        The loss, and the gradients of the factors.
    """
    state = model.audio_state(audio, video)
    rope = None if video is None else video.rotary.cross
    videos, blocks = iter(watched), []

    def step(block: Block, streams: Streams, _: BlockSkips, done: Done) -> Streams:
        (x,), shared, own = streams, next(videos), Gradients()
        after, back = audio_block(block, x, shared, rope, state, own)
        blocks.append((_from_input(block, x, shared, rope, state, own) if again else back, own))
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
        h, norm_back = modulated_norm(x, scale, shift, eps)
        if isinstance(network, FeedForward):
            change, change_back = feed_forward(network, h, gradients)
        else:
            change, change_back = attend(network, h, gradients, attending)
        x, gate_back = gated_sum(x, change, gate)
        backs.append((norm_back, change_back, gate_back))
        del h, change

    def back(cotangent: mx.array) -> mx.array:
        while backs:
            norm_back, change_back, gate_back = backs.pop()
            cotangent = cotangent + norm_back(change_back(gate_back(cotangent)))
        return cotangent

    return x, back


def _from_input(
    block: Block, x: mx.array, shared: Shared, video_rope: Rope | None, state: StreamState, gradients: Gradients
) -> Pullback:
    """The pullback of a block that is computed again when its turn comes, and not before."""
    kept = [x, state.context] if shared.video is None else [x, state.context, shared.video]

    def back(cotangent: mx.array) -> mx.array:
        x, context, *video = mx.depends(kept, [cotangent])
        _, pullback = audio_block(block, x, Shared(*video), video_rope, state._replace(context=context), gradients)
        return pullback(cotangent)

    return back
