"""A forward of each kind, described but for its walk over the blocks, so that several passes may go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models.transformer.attention import Read
from mlx_ltxw.models.transformer.block import NOTHING_SHARED, Block, Shared, StreamState, Texts
from mlx_ltxw.models.transformer.inputs import BlockSkips, Modality
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


def joint_forward(model: Network, video: Modality, audio: Modality, like: Forward | None = None) -> Forward:
    """What a joint forward (`Transformer.__call__`) walks; passes of it share its keys and values of the text.

    Args:
        model: The network.
        video, audio: Its streams.
        like: A forward of the same tokens at the same noise levels that reads other texts; all that does not depend
            on the text is taken from it.
    """
    states: tuple[StreamState, ...]
    streams: Streams
    if like is None:
        states = model.video_state(video, audio), model.audio_state(audio, video)
        streams = model.patchify_proj(video.latent), model.audio_patchify_proj(audio.latent)
    else:
        states, streams = _reading(like.states, video, audio), like.streams
    v, a = states
    dtype = streams[0].dtype

    def prepare(block: Block) -> Texts:
        return block.read_texts(v, a, dtype)

    def step(texts: Texts | None, block: Block, streams: Streams, skips: BlockSkips, done: Done) -> Streams:
        vx, ax = streams
        out = block(video=vx, audio=ax, video_state=v, audio_state=a, skips=skips, done=done, texts=texts)
        return out.video, out.audio

    def finish(streams: Streams) -> tuple[mx.array, mx.array]:
        return model.video_head(streams[0], v), model.audio_head(streams[1], a)

    return Forward(model.transformer_blocks, states, streams, prepare, step, finish)


def audio_forward(model: Network, audio: Modality, like: Forward | None = None) -> Forward:
    """What `Transformer.audio_alone` walks; arguments as for `joint_forward`."""
    streams: Streams
    if like is None:
        a, streams = model.audio_state(audio, None), (model.audio_patchify_proj(audio.latent),)
    else:
        (a,), streams = _reading(like.states, audio), like.streams
    dtype = streams[0].dtype

    def prepare(block: Block) -> Read:
        return block.read_audio_text(a, NOTHING_SHARED, dtype)

    def step(text: Read | None, block: Block, streams: Streams, skips: BlockSkips, done: Done) -> Streams:
        return (block.audio_stream(streams[0], a, skip_self=skips.audio_self, text=text),)

    def finish(streams: Streams) -> mx.array:
        return model.audio_head(streams[0], a)

    return Forward(model.transformer_blocks, (a,), streams, prepare, step, finish)


def accompanied_forward(
    model: Network, others: Sequence[Accompaniment], video: Modality, audio: Modality, like: Forward | None = None
) -> Forward:
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
    dtype = streams[0].dtype

    def prepare(blocks: tuple[Block, ...]) -> tuple[Texts, list[Read]]:
        texts = blocks[0].read_texts(v, a, dtype)
        shared = [Shared(text=texts.audio) if same else NOTHING_SHARED for same in same_text]
        reads = [
            block.read_audio_text(state, each, dtype)
            for block, state, each in zip(blocks[1:], own, shared, strict=True)
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
        out = block(video=vx, audio=ax, video_state=v, audio_state=a, skips=skips, done=done, texts=texts)
        done((out.video, out.audio))
        for i, (other, state) in enumerate(zip(other_blocks, own, strict=True)):
            shared = out.shared if same_text[i] else out.shared._replace(text=None)
            text = None if reads is None else reads[i]
            xs[i] = other.audio_stream(xs[i], state, shared, video.rotary.cross, skips.audio_self, text)
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
