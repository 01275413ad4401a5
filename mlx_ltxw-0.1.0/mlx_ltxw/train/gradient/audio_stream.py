"""Loss and gradient of the adapted audio stream under the exact video lock.

The video, and the base audio that it reads, run ahead block by block (`Transformer.watch`). The stream that is trained
follows, and its blocks are then walked back by hand (`pullbacks`). It could be left to `mx.grad`; but MLX fuses nothing
inside a gradient and evaluates nothing before all of it has been described, and this stream is so narrow that a GPU
then waits for the host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import mlx.core as mx

from mlx_ltxw.models.transformer import Modality, Shared, Transformer
from mlx_ltxw.models.transformer.adaln import Row, rows
from mlx_ltxw.models.transformer.block import MAIN_ROWS, Block, StreamState, modulated_text
from mlx_ltxw.models.transformer.rope import Rope
from mlx_ltxw.train.gradient.pullbacks import Gradients, Pullback, attend, feed_forward, gated_sum, modulated_norm


def gradient(
    model: Transformer, audio: Modality, video: Modality | None, watched: Iterable[Shared],
    loss: Callable[[mx.array], mx.array], again: bool, submit: Callable[..., None],
) -> tuple[mx.array, Gradients]:  # fmt: skip
    """Loss and gradient of all LoRA factors of a model's audio stream.

    Args:
        model: With one LoRA beside each trained linear of its audio attentions.
        audio: The stream.
        video: What it hears; its `sigma` sets the gates, as many as the audio's. None: sound alone.
        watched: One a block (`Transformer.watch`), `Shared()` for sound alone. Without its text where the audio's
            noise level or batch is another one.
        loss: Of the velocity (B, Ta, C), a scalar.
        again: Gradient checkpointing: of each block keep its input and the video's alone, and compute it again.
        submit: Takes what a block has made as soon as it is described: `mx.async_eval` or `mx.eval`, so that the device
            begins while the next block is described, or so that no more than a block is in memory at a time; inside a
            compiled function something that does nothing.

    Returns:
        The loss, and the gradients of the factors.
    """
    state = model.audio_state(audio, video)
    rope = None if video is None else video.rotary.cross
    x, blocks = model.audio_patchify_proj(audio.latent), []
    for block, shared in zip(model.transformer_blocks, watched, strict=True):
        given, own = x, Gradients()
        x, back = audio_block(block, given, shared, rope, state, own)
        blocks.append((_from_input(block, given, shared, rope, state, own) if again else back, own))
        del back, shared  # and with them all that they keep
        submit(x)
    value, cotangent = mx.value_and_grad(lambda x: loss(model.audio_head(x, state)))(x)
    found = Gradients()
    while blocks:
        back, own = blocks.pop()
        cotangent = back(cotangent)
        found |= own
        factors = [factor for pair in own.values() for factor in pair]
        # A block's own gradients before the chain goes on: left for later, each would keep the block in memory.
        cotangent = mx.depends([cotangent], factors)[0] if factors else cotangent
        submit(cotangent if blocks else factors)
    return value, found


def audio_block(
    block: Block, x: mx.array, shared: Shared, seen_rope: Rope | None, state: StreamState, found: Gradients
) -> tuple[mx.array, Pullback]:
    """`Block.audio_stream`, with its pullback.

    Args:
        block, x, shared, seen_rope, state: As there.
        found: Takes the gradients of the block's factors when the pullback runs.
    """
    main = rows(block.audio_scale_shift_table, state.modulation, 0, MAIN_ROWS)
    text = modulated_text(block.audio_prompt_scale_shift_table, state)
    parts: list[tuple[Sequence[Row], Callable[[mx.array], tuple[mx.array, Pullback]]]] = [
        (main[0:3], lambda h: attend(block.audio_attn1, h, found, state.rotary.own)),
        (main[6:9], lambda h: attend(block.audio_attn2, h, found, context=text, shared=shared.text)),
        (main[3:6], lambda h: feed_forward(block.audio_ff, h, found)),
    ]
    if shared.video is not None and seen_rope is not None:
        seen = shared.video.astype(x.dtype)
        reading = (block.video_to_audio_attn, found, state.rotary.cross, seen, shared.read, seen_rope)
        parts.insert(2, (block.reading_rows(state), lambda h: attend(reading[0], h, *reading[1:])))
    backs = []
    for (shift, scale, gate), change in parts:
        h, norm_back = modulated_norm(x, scale, shift, block.eps)
        update, change_back = change(h)
        x, gate_back = gated_sum(x, update, gate)
        backs.append((norm_back, change_back, gate_back))
        del h, update

    def back(cotangent: mx.array) -> mx.array:
        while backs:
            norm_back, change_back, gate_back = backs.pop()
            cotangent = cotangent + norm_back(change_back(gate_back(cotangent)))
        return cotangent

    return x, back


def _from_input(
    block: Block, x: mx.array, shared: Shared, seen_rope: Rope | None, state: StreamState, found: Gradients
) -> Pullback:
    """The pullback of a block that is computed again when its turn comes, and not before."""
    kept = [x, state.context] if shared.video is None else [x, state.context, shared.video]

    def back(cotangent: mx.array) -> mx.array:
        x, context, *video = mx.depends(kept, [cotangent])
        again = dataclasses.replace(state, context=context)
        _, pullback = audio_block(block, x, Shared(*video), seen_rope, again, found)
        return pullback(cotangent)

    return back
