"""What goes into the transformer: one `Modality` a stream, and which attentions to leave out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_ltxw.models.transformer.config import StreamConfig, TransformerConfig
from mlx_ltxw.models.transformer.rope import Rope, split_rope
from mlx_ltxw.models.transformer.spread import Spread


class Rotary(NamedTuple):
    """Rotation tables of one stream's tokens.

    Attributes:
        own: For its self-attention.
        cross: For the audio-video attentions, over time alone.
    """

    own: Rope
    cross: Rope


def rotary(config: TransformerConfig, stream: StreamConfig, positions: np.ndarray, dtype: mx.Dtype) -> Rotary:
    """Tables for tokens at `positions`; made once a run, since positions never change between steps.

    Args:
        config: The transformer's.
        stream: `config.video` or `config.audio`.
        positions: (B, axes, T) fp32 midpoints: seconds, then pixels (height, width) for video; seconds for audio.
        dtype: bf16 or fp32, of the stream's activations.

    Returns:
        Tables in `dtype`; time comes first among the axes, so that both streams agree on absolute seconds.
    """
    time_scale = max(config.video.max_positions[0], config.audio.max_positions[0])
    return Rotary(
        own=split_rope(positions, stream.dim, stream.heads, config.theta, stream.max_positions, dtype),
        cross=split_rope(positions[:, :1], config.cross_dim, stream.heads, config.theta, [time_scale], dtype),
    )


class Sharing(NamedTuple):
    """How many of a batch's rows, in a row, share what they read; empty for equally many.

    Attributes:
        text: Each text.
        video: Each reading of the one video: with adapters of their own, rows may read it in different ways.
    """

    text: tuple[int, ...] = ()
    video: tuple[int, ...] = ()


EQUALLY = Sharing()


class Modality(NamedTuple):
    """One stream at one noise level.

    Attributes:
        latent: (B, T, in_channels) noisy tokens.
        sigma: (B,) the stream's noise level, fp32; 0 when the stream is frozen. The *other* stream's gate reads it.
        timesteps: (B, 1) or (B, T) noise level of each token, fp32 (sigma times the denoising mask).
        context: (B, S, context_dim) the text as this stream reads it, or fewer that rows share.
        rotary: Tables of its tokens.
        sharing: Of rows that share what they read.
        spread: How its tokens lie over machines, of which these are one's; None where all are here.
    """

    latent: mx.array
    sigma: mx.array
    timesteps: mx.array
    context: mx.array
    rotary: Rotary
    sharing: Sharing = EQUALLY
    spread: Spread | None = None


def own_tokens(stream: Modality, spread: Spread) -> Modality:
    """This machine's tokens of a stream, which knows how to gather the others'."""

    def own(rope: Rope) -> Rope:
        return spread.own(rope[0]), spread.own(rope[1])

    rotary = Rotary(own(stream.rotary.own), own(stream.rotary.cross))
    return stream._replace(
        latent=spread.own(stream.latent), timesteps=spread.own(stream.timesteps), rotary=rotary, spread=spread
    )


class BlockSkips(NamedTuple):
    """What one block leaves out: either stream's self-attention, and both streams' reading of each other."""

    video_self: bool = False
    audio_self: bool = False
    cross: bool = False


NO_BLOCK_SKIPS = BlockSkips()


@dataclass(frozen=True)
class Skips:
    """Attentions left out in one guidance pass (`ltx_core/guidance/perturbations.py`).

    Attributes:
        video_self, audio_self: Blocks whose self-attention passes its values through unattended.
        cross: Whether audio and video stop reading each other, in every block.
    """

    video_self: frozenset[int] = frozenset()
    audio_self: frozenset[int] = frozenset()
    cross: bool = False

    def of(self, index: int) -> BlockSkips:
        """What the block of that index leaves out."""
        return BlockSkips(index in self.video_self, index in self.audio_self, self.cross)


NO_SKIPS = Skips()
