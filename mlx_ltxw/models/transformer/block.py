"""One audio-video transformer block.

Source: `ltx_core/model/transformer/transformer.py:BasicAVTransformerBlock.forward`.

Within a block each stream attends to itself and to the text; then both read each other's state as it was before either
read (video from audio, audio from video); then each has its feed-forward network.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models.transformer.adaln import (
    CROSS_ROWS,
    MAIN_ROWS,
    PROMPT_ROWS,
    Modulation,
    audio_reads_video,
    modulate,
    modulation_rows,
    reading_gate,
    stream_modulation,
    video_reads_audio,
)
from mlx_ltxw.models.transformer.attention import Attention, Read
from mlx_ltxw.models.transformer.config import TransformerConfig
from mlx_ltxw.models.transformer.feed_forward import FeedForward
from mlx_ltxw.models.transformer.inputs import EQUALLY, NO_BLOCK_SKIPS, BlockSkips, Rotary, Sharing
from mlx_ltxw.models.transformer.rope import Rope
from mlx_ltxw.models.transformer.spread import Spread
from mlx_ltxw.models.transformer.unsummed import Unsummed
from mlx_ltxw.models.transformer.update import Attending, Update
from mlx_ltxw.models.transformer.walk import Done, nothing_done


class StreamState(NamedTuple):
    """What all blocks share of one stream in one forward.

    Attributes:
        context: (B, S, dim) text.
        modulation: (B, T, 9, dim), T is 1 or the token count.
        prompt_modulation: (B, 1, 2, dim).
        embedded: (B, T, dim) noise-level embedding, for the head.
        rotary: Rotation tables.
        cross_modulation: (B, T, 4, dim) of the audio-video attentions; None without the other stream.
        cross_gate: (B, 1, 1, dim) gate of what this stream reads from the other, at the other's noise level.
        sharing: Of rows that share what they read.
        spread: As for `Modality`.
    """

    context: mx.array
    modulation: mx.array
    prompt_modulation: mx.array
    embedded: mx.array
    rotary: Rotary
    cross_modulation: mx.array | None
    cross_gate: mx.array | None
    sharing: Sharing = EQUALLY
    spread: Spread | None = None


class Shared(NamedTuple):
    """What a block's base streams have made that a second audio stream has use for.

    Attributes:
        video: (B, Tv, Dv) as the audio reads it: before its own reading, normed and modulated. None: there is none to
            read.
        read: What `video_to_audio_attn` read of it, for an adapted one to add to; None to read it anew.
        text: The same of `audio_attn2` and the text, at the same noise level.
        spread: How the video's tokens lie over machines, where only this machine's are here.
    """

    video: mx.array | None = None
    read: Read | None = None
    text: Read | None = None
    spread: Spread | None = None


NOTHING_SHARED = Shared()


class Texts(NamedTuple):
    """What a block's attentions to the text have read of it; the same whatever a pass leaves out.

    Attributes:
        video, audio: Of each stream.
    """

    video: Read
    audio: Read


class BlockOutput(NamedTuple):
    """Both streams after a block, (B, T, dim) each, and what a second audio stream shares with them."""

    video: mx.array
    audio: mx.array
    shared: Shared


class Block(nn.Module):
    """A block of both streams, or of the audio stream alone.

    Args:
        config: The transformer's.
        with_video: Whether the video stream and the audio-video attentions exist.
    """

    def __init__(self, config: TransformerConfig, with_video: bool = True) -> None:
        super().__init__()
        video, audio, eps = config.video, config.audio, config.eps
        self.eps = eps
        self.audio_attn1 = Attention(audio.dim, audio.dim, audio.heads, audio.head_dim, eps, gated=True)
        self.audio_attn2 = Attention(audio.dim, audio.context_dim, audio.heads, audio.head_dim, eps, gated=True)
        self.audio_ff = FeedForward(audio.dim, 4 * audio.dim, audio.ff_bias)
        self.audio_scale_shift_table = mx.zeros((MAIN_ROWS, audio.dim))
        self.audio_prompt_scale_shift_table = mx.zeros((PROMPT_ROWS, audio.dim))
        if not with_video:
            return
        self.attn1 = Attention(video.dim, video.dim, video.heads, video.head_dim, eps, gated=True)
        self.attn2 = Attention(video.dim, video.context_dim, video.heads, video.head_dim, eps, gated=True)
        self.ff = FeedForward(video.dim, 4 * video.dim, video.ff_bias)
        self.scale_shift_table = mx.zeros((MAIN_ROWS, video.dim))
        self.prompt_scale_shift_table = mx.zeros((PROMPT_ROWS, video.dim))
        self.audio_to_video_attn = Attention(video.dim, audio.dim, audio.heads, audio.head_dim, eps, gated=True)
        self.video_to_audio_attn = Attention(audio.dim, video.dim, audio.heads, audio.head_dim, eps, gated=True)
        self.scale_shift_table_a2v_ca_video = mx.zeros((CROSS_ROWS, video.dim))
        self.scale_shift_table_a2v_ca_audio = mx.zeros((CROSS_ROWS, audio.dim))

    def __call__(
        self,
        *,
        video: mx.array,
        audio: mx.array,
        video_state: StreamState,
        audio_state: StreamState,
        skips: BlockSkips = NO_BLOCK_SKIPS,
        done: Done = nothing_done,
        texts: Texts | None = None,
    ) -> BlockOutput:
        """Both streams.

        Args:
            video, audio: Tokens, (B, Tv, Dv) and (B, Ta, Da).
            video_state, audio_state: What all blocks share of them.
            skips: What this block leaves out.
            done: Takes each part of the work as it is described.
            texts: From `read_texts`, if that has been asked for already.
        """
        v, a = video_state, audio_state
        video_own, video_text, video_feed_forward = self.video_updates(v, skips.video_self)
        audio_own, audio_text, audio_feed_forward = self.audio_updates(a, skip_self=skips.audio_self)

        dtype = audio.dtype
        text = audio_text.read(dtype) if texts is None else texts.audio
        video_stream, audio_stream = video_own(Unsummed(video), done=done), audio_own(Unsummed(audio))
        done((video_stream.latest, audio_stream.latest))
        video_stream = video_text(video_stream, None if texts is None else texts.video, done)
        audio_stream = audio_text(audio_stream, text)
        shared = Shared(text=text)
        done((video_stream.latest, audio_stream.latest))

        if not skips.cross:
            video_stream, audio_stream, shared = self._read_each_other(video_stream, audio_stream, v, a, text, done)
            done((video_stream.latest, audio_stream.latest))

        video_stream, audio_stream = video_feed_forward(video_stream, done=done), audio_feed_forward(audio_stream)
        return BlockOutput(video_stream.whole(), audio_stream.whole(), shared)

    def _read_each_other(
        self, video: Unsummed, audio: Unsummed, v: StreamState, a: StreamState, text: Read, done: Done
    ) -> tuple[Unsummed, Unsummed, Shared]:
        """Both streams after each has read the other, as it was before, and what they share."""
        assert v.cross_modulation is not None
        assert a.cross_modulation is not None
        table, audio_table = self.scale_shift_table_a2v_ca_video, self.scale_shift_table_a2v_ca_audio
        video, (queries, as_read) = video.normed(
            video_reads_audio(table, v.cross_modulation), audio_reads_video(table, v.cross_modulation), eps=self.eps
        )
        audio, (audio_queries, heard) = audio.normed(
            audio_reads_video(audio_table, a.cross_modulation), video_reads_audio(audio_table, a.cross_modulation),
            eps=self.eps,
        )  # fmt: skip
        shared = Shared(as_read, text=text, spread=v.spread)
        reading = self.audio_reading(a, shared, v.rotary.cross)
        shared = shared._replace(read=reading.read(audio_queries.dtype))
        video = self.video_reading(v, heard, a)(video, done=done, queries=queries)
        return video, reading(audio, shared.read, queries=audio_queries), shared

    def audio_stream(
        self,
        audio: mx.array,
        state: StreamState,
        shared: Shared = NOTHING_SHARED,
        video_rope: Rope | None = None,
        skip_self: bool = False,
        text: Read | None = None,
    ) -> mx.array:
        """The audio stream alone, reading a video that does not read it back: (B, Ta, Da); arguments as for
        `audio_updates`, and `text` from `read_audio_text`, if that has been asked for already."""
        own, to_text, *others = self.audio_updates(state, shared, video_rope, skip_self)
        stream = to_text(own(Unsummed(audio)), text)
        for update in others:
            stream = update(stream)
        return stream.whole()

    def read_texts(self, video_state: StreamState, audio_state: StreamState, dtype: mx.Dtype) -> Texts:
        """Keys and values of both streams' texts, for streams in `dtype`."""
        _, video_text, _ = self.video_updates(video_state)
        return Texts(video_text.read(dtype), self.read_audio_text(audio_state, NOTHING_SHARED, dtype))

    def read_audio_text(self, state: StreamState, shared: Shared, dtype: mx.Dtype) -> Read:
        """Those of the audio stream's; `shared` may have what the base's attention has read of the same text."""
        _, to_text, *_ = self.audio_updates(state, shared)
        return to_text.read(dtype)

    def audio_updates(
        self,
        state: StreamState,
        shared: Shared = NOTHING_SHARED,
        video_rope: Rope | None = None,
        skip_self: bool = False,
    ) -> list[Update]:
        """What the block does to the audio stream, in order; the reading of the video only where `shared` has one.

        Args:
            state: What all blocks share of the stream.
            shared: From a block's output, in any dtype; `Shared()` for a stream on its own.
            video_rope: The video's rotation in the audio-video attentions.
            skip_self: Pass self-attention values through.
        """
        own, feed_forward, text = stream_modulation(self.audio_scale_shift_table, state.modulation)
        to_itself = Attending(rope=state.rotary.own, values_only=skip_self)
        text_context = modulated_text(self.audio_prompt_scale_shift_table, state)
        to_text = Attending(text_context, shared.text, counts=state.sharing.text)
        updates = [
            Update(self.audio_attn1, own, self.eps, to_itself),
            Update(self.audio_attn2, text, self.eps, to_text),
            Update(self.audio_ff, feed_forward, self.eps),
        ]
        if shared.video is not None and video_rope is not None:
            updates.insert(2, self.audio_reading(state, shared, video_rope))
        return updates

    def video_updates(self, state: StreamState, skip_self: bool = False) -> list[Update]:
        """What the block does to the video stream, but for its reading of the audio."""
        own, feed_forward, text = stream_modulation(self.scale_shift_table, state.modulation)
        to_itself = Attending(rope=state.rotary.own, values_only=skip_self, spread=state.spread)
        to_text = Attending(modulated_text(self.prompt_scale_shift_table, state))
        return [
            Update(self.attn1, own, self.eps, to_itself),
            Update(self.attn2, text, self.eps, to_text),
            Update(self.ff, feed_forward, self.eps),
        ]

    def audio_reading(self, state: StreamState, shared: Shared, video_rope: Rope) -> Update:
        """The audio reads the video (`video_to_audio_attn`)."""
        table = self.scale_shift_table_a2v_ca_audio
        assert state.cross_modulation is not None
        assert state.cross_gate is not None
        scale, shift = audio_reads_video(table, state.cross_modulation)
        modulation = Modulation(shift, scale, reading_gate(table, state.cross_gate))
        rope = state.rotary.cross
        counts, spread = state.sharing.video, shared.spread
        attending = Attending(shared.video, shared.read, rope, video_rope, counts=counts, spread=spread)
        return Update(self.video_to_audio_attn, modulation, self.eps, attending)

    def video_reading(self, state: StreamState, heard: mx.array, audio_state: StreamState) -> Update:
        """The video reads the audio's tokens (B, Ta, Da), normed and modulated (`audio_to_video_attn`)."""
        table = self.scale_shift_table_a2v_ca_video
        assert state.cross_modulation is not None
        assert state.cross_gate is not None
        scale, shift = video_reads_audio(table, state.cross_modulation)
        modulation = Modulation(shift, scale, reading_gate(table, state.cross_gate))
        attending = Attending(heard, None, state.rotary.cross, audio_state.rotary.cross)
        return Update(self.audio_to_video_attn, modulation, self.eps, attending)


def modulated_text(table: mx.array, state: StreamState) -> mx.array:
    """The text as a stream's attention to it reads it: (B, S, context_dim), at the stream's noise level."""
    shift, scale = modulation_rows(table, state.prompt_modulation, slice(0, PROMPT_ROWS))
    return modulate(state.context, scale, shift)
