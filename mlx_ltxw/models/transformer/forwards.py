"""A forward of each kind, described but for its walk over the blocks, so that several passes may go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models.transformer.attention import Read
from mlx_ltxw.models.transformer.block import NOTHING_SHARED, Block, BlockOutput, Shared, StreamState, Texts
from mlx_ltxw.models.transformer.compiled import Call, directly
from mlx_ltxw.models.transformer.inputs import BlockSkips, Modality
from mlx_ltxw.models.transformer.rope import Rope
from mlx_ltxw.models.transformer.walk import Abreast, Blocks, Done, Forward, Streams


class Network(Protocol):
    """What a forward needs of a transformer (`model.py`)."""

    transformer_blocks: Blocks[Block]
    patchify_proj: nn.Linear
    audio_patchify_proj: nn.Linear

    def video_state(self, video: Modality, audio: Modality) -> StreamState: ...

    def audio_state(self, audio: Modality, video: Modality | None) -> StreamState: ...

    def video_head(self, x: mx.array, state: StreamState) -> mx.array: ...

    def audio_head(self, x: mx.array, state: StreamState) -> mx.array: ...


class Accompaniment(NamedTuple):
    """An audio stream beside the base's, which reads the video and is read by none.

    Attributes:
        model: The base with adapted audio modules; it shares all other arrays.
        audio: Its tokens, at the base's noise level; where its context is the base's own, so is its reading of it.
    """

    model: Network
    audio: Modality


def joint_step(
    block: Block, video: mx.array, audio: mx.array, states: Sequence[StreamState], skips: BlockSkips,
    texts: Texts | None, done: Done,
) -> BlockOutput:  # fmt: skip
    """A block as a function of arrays alone, which may be compiled (`Call`)."""
    v, a = states
    return block(video=video, audio=audio, video_state=v, audio_state=a, skips=skips, done=done, texts=texts)


def _read_texts(block: Block, states: Sequence[StreamState], like: mx.array, done: Done) -> Texts:
    return block.read_texts(states[0], states[1], like.dtype)


def _audio_step(
    block: Block, audio: mx.array, state: StreamState, shared: Shared, rope: Rope | None, skip_self: bool,
    text: Read | None, done: Done,
) -> mx.array:  # fmt: skip
    return block.audio_stream(audio, state, shared, rope, skip_self, text)


def _read_audio_text(block: Block, state: StreamState, text: Read | None, like: mx.array, done: Done) -> Read:
    return block.read_audio_text(state, Shared(text=text), like.dtype)


def joint_forward(
    model: Network, video: Modality, audio: Modality, like: Forward | None = None, call: Call = directly
) -> Forward:
    """What a joint forward (`Transformer.__call__`) walks; passes of it share its keys and values of the text.

    Args:
        model: The network.
        video, audio: Its streams.
        like: A forward of the same tokens at the same noise levels that reads other texts; all that does not depend
            on the text is taken from it.
        call: How blocks are called.
    """
    states: tuple[StreamState, ...]
    streams: Streams
    if like is None:
        states = model.video_state(video, audio), model.audio_state(audio, video)
        streams = model.patchify_proj(video.latent), model.audio_patchify_proj(audio.latent)
    else:
        states, streams = _reading(like.states, video, audio), like.streams
    v, a = states
    first = streams[0]

    def prepare(block: Block) -> Texts:
        return call(_read_texts, block, states, first)

    def step(texts: Texts | None, block: Block, streams: Streams, skips: BlockSkips, done: Done) -> Streams:
        out = call(joint_step, block, *streams, states, skips, texts, done=done)
        return out.video, out.audio

    def finish(streams: Streams) -> tuple[mx.array, mx.array]:
        return model.video_head(streams[0], v), model.audio_head(streams[1], a)

    return Forward(model.transformer_blocks, states, streams, prepare, step, finish)


def audio_forward(model: Network, audio: Modality, like: Forward | None = None, call: Call = directly) -> Forward:
    """What `Transformer.audio_alone` walks; arguments as for `joint_forward`."""
    streams: Streams
    if like is None:
        a, streams = model.audio_state(audio, None), (model.audio_patchify_proj(audio.latent),)
    else:
        (a,), streams = _reading(like.states, audio), like.streams
    first = streams[0]

    def prepare(block: Block) -> Read:
        return call(_read_audio_text, block, a, None, first)

    def step(text: Read | None, block: Block, streams: Streams, skips: BlockSkips, done: Done) -> Streams:
        return (call(_audio_step, block, streams[0], a, NOTHING_SHARED, None, skips.audio_self, text, done=done),)

    def finish(streams: Streams) -> mx.array:
        return model.audio_head(streams[0], a)

    return Forward(model.transformer_blocks, (a,), streams, prepare, step, finish)


def accompanied_forward(
    model: Network, others: Sequence[Accompaniment], video: Modality, audio: Modality, like: Forward | None = None,
    call: Call = directly,
) -> Forward:  # fmt: skip
    """What `Transformer.accompanied` walks; arguments as for it and for `joint_forward`."""
    models = [other.model for other in others]
    streams: Streams
    if like is None:
        base = joint_forward(model, video, audio)
        states = *base.states, *(other.model.audio_state(other.audio, video) for other in others)
        streams = (*base.streams, *(other.model.audio_patchify_proj(other.audio.latent) for other in others))
    else:
        states, streams = _reading(like.states, video, audio, *(other.audio for other in others)), like.streams
    v, a, *own = states
    same_text = [other.audio.context is audio.context and other.audio.sigma is audio.sigma for other in others]
    first = streams[0]

    def prepare(blocks: tuple[Block, ...]) -> tuple[Texts, list[Read]]:
        texts = call(_read_texts, blocks[0], (v, a), first)
        reads = [
            call(_read_audio_text, block, state, texts.audio if same else None, first)
            for block, state, same in zip(blocks[1:], own, same_text, strict=True)
        ]
        return texts, reads

    def step(
        prepared: tuple[Texts, list[Read]] | None,
        blocks: tuple[Block, ...],
        streams: Streams,
        skips: BlockSkips,
        done: Done,
    ) -> Streams:
        block, *other_blocks = blocks
        texts, reads = prepared or (None, None)
        vx, ax, *xs = streams
        out = call(joint_step, block, vx, ax, (v, a), skips, texts, done=done)
        done((out.video, out.audio))
        for i, (other, state) in enumerate(zip(other_blocks, own, strict=True)):
            shared = out.shared if same_text[i] else out.shared._replace(text=None)
            text = None if reads is None else reads[i]
            rope = video.rotary.cross
            xs[i] = call(_audio_step, other, xs[i], state, shared, rope, skips.audio_self, text, done=done)
        return out.video, out.audio, *xs

    def finish(streams: Streams) -> tuple[mx.array, mx.array, list[mx.array]]:
        vx, ax, *xs = streams
        velocities = [one.audio_head(x, s) for one, x, s in zip(models, xs, own, strict=True)]
        return model.video_head(vx, v), model.audio_head(ax, a), velocities

    blocks = Abreast(model.transformer_blocks, *(one.transformer_blocks for one in models))
    return Forward(blocks, states, streams, prepare, step, finish)


def _reading(states: Sequence[StreamState], *modalities: Modality) -> tuple[StreamState, ...]:
    """The states of streams that read other texts at the same noise level."""
    return tuple(
        state._replace(context=modality.context, sharing=modality.sharing)
        for state, modality in zip(states, modalities, strict=True)
    )
