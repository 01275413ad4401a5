"""One audio-video transformer block.

Source: `ltx_core/model/transformer/transformer.py:BasicAVTransformerBlock.forward`.

Within a block each stream attends to itself and to the text; then both read each other's state as it was before either
read (video from audio, audio from video); then each has its feed-forward network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models.transformer.adaln import Row, add_gated, modulate, rows
from mlx_ltxw.models.transformer.attention import Attention, Read
from mlx_ltxw.models.transformer.config import TransformerConfig
from mlx_ltxw.models.transformer.feed_forward import FeedForward
from mlx_ltxw.models.transformer.inputs import Rotary
from mlx_ltxw.models.transformer.rope import Rope

MAIN_ROWS = 9  # shift, scale, gate: self-attention; shift, scale, gate: feed-forward; shift, scale, gate: text
CROSS_ROWS = 5  # scale, shift: video reads audio; scale, shift: audio reads video; gate
PROMPT_ROWS = 2  # shift, scale


@dataclass(frozen=True)
class StreamState:
    """What all blocks share of one stream in one forward.

    Attributes:
        context: (B, S, dim) text.
        modulation: (B, T, 9, dim), T is 1 or the token count.
        prompt_modulation: (B, 1, 2, dim).
        embedded: (B, T, dim) noise-level embedding, for the head.
        rotary: Rotation tables.
        cross_modulation: (B, T, 4, dim) of the audio-video attentions; None without the other stream.
        cross_gate: (B, 1, 1, dim) gate of what this stream reads from the other, at the other's noise level.
    """

    context: mx.array
    modulation: mx.array
    prompt_modulation: mx.array
    embedded: mx.array
    rotary: Rotary
    cross_modulation: mx.array | None
    cross_gate: mx.array | None


class Shared(NamedTuple):
    """What a block's base streams have made that a second audio stream has use for.

    Attributes:
        video: (B, Tv, Dv) as the audio reads it: before its own reading, normed and modulated. None: there is none to
            read.
        read: What `video_to_audio_attn` read of it, for an adapted one to add to; None to read it anew.
        text: The same of `audio_attn2` and the text, at the same noise level.
    """

    video: mx.array | None = None
    read: Read | None = None
    text: Read | None = None


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
        self, vx: mx.array, ax: mx.array, video: StreamState, audio: StreamState, skip_video: bool, skip_audio: bool,
        skip_cross: bool,
    ) -> tuple[mx.array, mx.array]:  # fmt: skip
        """Both streams.

        Args:
            vx, ax: (B, Tv, Dv) and (B, Ta, Da).
            video, audio: Shared state.
            skip_video, skip_audio: Pass self-attention values through.
            skip_cross: Leave the audio-video attentions out.
        """
        vx, ax, _ = self.shown(vx, ax, video, audio, skip_video, skip_audio, skip_cross)
        return vx, ax

    def shown(
        self, vx: mx.array, ax: mx.array, video: StreamState, audio: StreamState, skip_video: bool, skip_audio: bool,
        skip_cross: bool,
    ) -> tuple[mx.array, mx.array, Shared]:  # fmt: skip
        """As the call, and with both streams what a second audio stream shares with them."""
        text = self.audio_text(audio)
        vx = self.video_attend(vx, video, skip_video)
        ax = self.audio_attend(ax, audio, skip_audio, text)
        shared = Shared(text=text)
        if not skip_cross:
            seen = self._cross_input(vx, self.scale_shift_table_a2v_ca_video, video, 2)
            read = self.video_to_audio_attn.read(seen)
            shared = Shared(seen, read, text)
            vx, ax = (
                self.video_read_audio(vx, ax, video, audio),
                self.audio_read_video(ax, read, video.rotary.cross, audio),
            )
        return self.video_feed_forward(vx, video), self.audio_feed_forward(ax, audio), shared

    def audio_stream(
        self, ax: mx.array, shared: Shared, seen_rope: Rope | None, audio: StreamState, skip_audio: bool
    ) -> mx.array:
        """The audio stream alone, reading a video that does not read it back.

        Args:
            ax: (B, Ta, Da).
            shared: From `shown`, in any dtype; `Shared()` for a stream on its own.
            seen_rope: The video's rotation in the audio-video attentions.
            audio: Shared state.
            skip_audio: Pass self-attention values through.

        Returns:
            (B, Ta, Da).
        """
        ax = self.audio_attend(ax, audio, skip_audio, self.audio_text(audio, shared.text))
        if shared.video is not None and seen_rope is not None:
            read = self.video_to_audio_attn.read(shared.video.astype(ax.dtype), shared.read)
            ax = self.audio_read_video(ax, read, seen_rope, audio)
        return self.audio_feed_forward(ax, audio)

    def video_attend(self, x: mx.array, state: StreamState, skip: bool) -> mx.array:
        """The video attends to itself, then to the text."""
        text = self.attn2.read(modulated_text(self.prompt_scale_shift_table, state))
        return self._attend(x, state, skip, self.attn1, self.attn2, self.scale_shift_table, text)

    def audio_attend(self, x: mx.array, state: StreamState, skip: bool, text: Read) -> mx.array:
        """The audio attends to itself, then to the text, of which `audio_text` has read."""
        return self._attend(x, state, skip, self.audio_attn1, self.audio_attn2, self.audio_scale_shift_table, text)

    def audio_text(self, state: StreamState, shared: Read | None = None) -> Read:
        """What `audio_attn2` reads of the text; `shared` as for `Attention.read`."""
        return self.audio_attn2.read(modulated_text(self.audio_prompt_scale_shift_table, state), shared)

    def video_read_audio(self, vx: mx.array, ax: mx.array, video: StreamState, audio: StreamState) -> mx.array:
        """The video reads the audio (`audio_to_video_attn`)."""
        queries = self._cross_input(vx, self.scale_shift_table_a2v_ca_video, video, 0)
        keys = self._cross_input(ax, self.scale_shift_table_a2v_ca_audio, audio, 0)
        update = self.audio_to_video_attn(queries, keys, video.rotary.cross, audio.rotary.cross)
        return add_gated(vx, update, _cross_gate(self.scale_shift_table_a2v_ca_video, video))

    def audio_read_video(self, ax: mx.array, read: Read, seen_rope: Rope, audio: StreamState) -> mx.array:
        """The audio attends to what `video_to_audio_attn` read of the video."""
        queries = self._cross_input(ax, self.scale_shift_table_a2v_ca_audio, audio, 2)
        update = self.video_to_audio_attn(queries, read, audio.rotary.cross, seen_rope)
        return add_gated(ax, update, _cross_gate(self.scale_shift_table_a2v_ca_audio, audio))

    def reading_rows(self, audio: StreamState) -> tuple[Row, Row, Row]:
        """Shift, scale and gate of `audio_read_video`."""
        table = self.scale_shift_table_a2v_ca_audio
        assert audio.cross_modulation is not None
        scale, shift = rows(table, audio.cross_modulation, 2, 4)
        return shift, scale, _cross_gate(table, audio)

    def video_feed_forward(self, x: mx.array, state: StreamState) -> mx.array:
        return self._feed_forward(x, state, self.ff, self.scale_shift_table)

    def audio_feed_forward(self, x: mx.array, state: StreamState) -> mx.array:
        return self._feed_forward(x, state, self.audio_ff, self.audio_scale_shift_table)

    def _attend(
        self, x: mx.array, state: StreamState, skip: bool, own: Attention, other: Attention, table: mx.array, text: Read
    ) -> mx.array:
        shift, scale, gate = rows(table, state.modulation, 0, 3)
        update = own(modulate(self._norm(x), scale, shift), rope=state.rotary.own, values_only=skip)
        x = add_gated(x, update, gate)
        shift, scale, gate = rows(table, state.modulation, 6, 9)
        return add_gated(x, other(modulate(self._norm(x), scale, shift), text), gate)

    def _feed_forward(self, x: mx.array, state: StreamState, network: FeedForward, table: mx.array) -> mx.array:
        shift, scale, gate = rows(table, state.modulation, 3, 6)
        return add_gated(x, network(modulate(self._norm(x), scale, shift)), gate)

    def _cross_input(self, x: mx.array, table: mx.array, state: StreamState, first_row: int) -> mx.array:
        assert state.cross_modulation is not None
        scale, shift = rows(table, state.cross_modulation, first_row, first_row + 2)  # scale comes first here
        return modulate(self._norm(x), scale, shift)

    def _norm(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, None, self.eps)


def modulated_text(table: mx.array, state: StreamState) -> mx.array:
    """The text as a stream's attention to it reads it: (B, S, context_dim), at the stream's noise level."""
    shift, scale = rows(table, state.prompt_modulation, 0, 2)
    return modulate(state.context, scale, shift)


def _cross_gate(table: mx.array, state: StreamState) -> Row:
    assert state.cross_gate is not None
    (gate,) = rows(table[4:], state.cross_gate, 0, 1)
    return gate
