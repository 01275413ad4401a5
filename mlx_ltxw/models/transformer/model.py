"""The audio-video transformer: noisy tokens in, velocities out.

Source: `ltx_core/model/transformer/model.py:LTXModel.forward`, `transformer_args.py` (version 1.2.0: the audio-video
scale and shift follow a stream's own timesteps, the gates the other stream's sigma).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models.transformer.adaln import MAIN_ROWS, PROMPT_ROWS, AdaLayerNormSingle, modulate
from mlx_ltxw.models.transformer.block import Block, Shared, StreamState
from mlx_ltxw.models.transformer.compiled import Call, directly
from mlx_ltxw.models.transformer.config import TransformerConfig
from mlx_ltxw.models.transformer.forwards import (
    Accompaniment,
    accompanied_forward,
    audio_forward,
    joint_forward,
    joint_step,
)
from mlx_ltxw.models.transformer.inputs import NO_SKIPS, BlockSkips, Modality, Skips
from mlx_ltxw.models.transformer.walk import DIRECT, Blocks, Done, Streams, Walk


class Transformer(nn.Module):
    """LTX-2.3's denoiser.

    Args:
        config: Read from the checkpoint.
        with_video: False builds the audio stream alone, for audio without a picture.

    Attributes:
        transformer_blocks: A list of `Block`; any other `Blocks` may take its place.
    """

    def __init__(self, config: TransformerConfig, with_video: bool = True) -> None:
        super().__init__()
        self.config = config
        self.with_video = with_video
        audio = config.audio
        self.audio_patchify_proj = nn.Linear(audio.in_channels, audio.dim)
        self.audio_adaln_single = AdaLayerNormSingle(audio.dim, MAIN_ROWS)
        self.audio_prompt_adaln_single = AdaLayerNormSingle(audio.dim, PROMPT_ROWS)
        self.audio_scale_shift_table = mx.zeros((2, audio.dim))
        self.audio_proj_out = nn.Linear(audio.dim, audio.out_channels)
        if with_video:
            video = config.video
            self.patchify_proj = nn.Linear(video.in_channels, video.dim)
            self.adaln_single = AdaLayerNormSingle(video.dim, MAIN_ROWS)
            self.prompt_adaln_single = AdaLayerNormSingle(video.dim, PROMPT_ROWS)
            self.scale_shift_table = mx.zeros((2, video.dim))
            self.proj_out = nn.Linear(video.dim, video.out_channels)
            self.av_ca_video_scale_shift_adaln_single = AdaLayerNormSingle(video.dim, 4)
            self.av_ca_audio_scale_shift_adaln_single = AdaLayerNormSingle(audio.dim, 4)
            self.av_ca_a2v_gate_adaln_single = AdaLayerNormSingle(video.dim, 1)
            self.av_ca_v2a_gate_adaln_single = AdaLayerNormSingle(audio.dim, 1)
        self.transformer_blocks: Blocks[Block] = [Block(config, with_video) for _ in range(config.layers)]

    def __call__(
        self, video: Modality, audio: Modality, skips: Skips = NO_SKIPS, walk: Walk = DIRECT
    ) -> tuple[mx.array, mx.array]:
        """One joint forward.

        Args:
            video, audio: Noisy tokens (B, T, in_channels) with their noise levels and text.
            skips: What this guidance pass leaves out.
            walk: How to go over the blocks.

        Returns:
            Velocities of video and audio, each (B, T, out_channels) in the latent's dtype.
        """
        velocities: tuple[mx.array, mx.array] = joint_forward(self, video, audio).alone(walk, skips)
        return velocities

    def audio_alone(self, audio: Modality, skips: Skips = NO_SKIPS, walk: Walk = DIRECT) -> mx.array:
        """The audio stream without any video: velocity (B, Ta, out_channels)."""
        velocity: mx.array = audio_forward(self, audio).alone(walk, skips)
        return velocity

    def locked(
        self,
        adapted: Transformer,
        video: Modality,
        audio: Modality,
        adapted_audio: Modality,
        skips: Skips = NO_SKIPS,
        walk: Walk = DIRECT,
    ) -> tuple[mx.array, mx.array, mx.array]:
        """`accompanied` by one adapted audio stream: velocities of video, base audio and adapted audio."""
        video_velocity, audio_velocity, (velocity,) = self.accompanied(
            [Accompaniment(adapted, adapted_audio)], video, audio, skips, walk
        )
        return video_velocity, audio_velocity, velocity

    def accompanied(
        self,
        others: Sequence[Accompaniment],
        video: Modality,
        audio: Modality,
        skips: Skips = NO_SKIPS,
        walk: Walk = DIRECT,
    ) -> tuple[mx.array, mx.array, list[mx.array]]:
        """The exact video lock: the base streams, and other audio streams that read the video and are read by none.

        The base streams are computed by the very operations of `__call__`, so video and base audio are bit-identical
        to a run without the others.

        Args:
            others: Each of any number of rows, (B, Ta, in_channels), at the base's noise level, or at one of its own
                and then with its own reading of the text.
            video, audio: The base streams, (1, T, in_channels) where others have several rows.
            skips: What this guidance pass leaves out.
            walk: How to go over the blocks.

        Returns:
            Velocities of video, base audio and each of the others.
        """
        velocities: tuple[mx.array, mx.array, list[mx.array]]
        velocities = accompanied_forward(self, others, video, audio).alone(walk, skips)
        return velocities

    def watch(
        self, video: Modality, audio: Modality, walk: Walk = DIRECT, call: Call = directly
    ) -> Iterator[Shared]:  # fmt: skip
        """Runs the base streams for what a second audio stream shares with every block of them, block by block.

        With `Block.audio_stream` it is `locked` in two halves: the first has nothing to train, so it needs no gradient.

        Args:
            video, audio: The base streams.
            walk: How to go over the blocks.
            call: How blocks are called.
        """
        v, a = self.video_state(video, audio), self.audio_state(audio, video)
        latest: list[Shared] = []

        def step(block: Block, streams: Streams, skips: BlockSkips, done: Done) -> Streams:
            out = call(joint_step, block, *streams, (v, a), skips, None, done=done)
            latest.append(out.shared)
            return out.video, out.audio

        streams = self.patchify_proj(video.latent), self.audio_patchify_proj(audio.latent)
        for _ in walk.over(self.transformer_blocks, step, streams):
            yield latest.pop()  # the last block's own output is never computed, unless it is submitted

    def video_state(self, video: Modality, audio: Modality) -> StreamState:
        """Everything the blocks share of the video stream; its gate follows the audio's sigma."""
        return self._state(
            video,
            self.adaln_single,
            self.prompt_adaln_single,
            self.av_ca_video_scale_shift_adaln_single,
            self.av_ca_a2v_gate_adaln_single,
            audio.sigma,
        )

    def audio_state(self, audio: Modality, video: Modality | None) -> StreamState:
        """Everything the blocks share of the audio stream; its gate follows the video's sigma."""
        if video is None:
            return self._state(audio, self.audio_adaln_single, self.audio_prompt_adaln_single, None, None, None)
        return self._state(
            audio,
            self.audio_adaln_single,
            self.audio_prompt_adaln_single,
            self.av_ca_audio_scale_shift_adaln_single,
            self.av_ca_v2a_gate_adaln_single,
            video.sigma,
        )

    def _state(
        self,
        modality: Modality,
        adaln: AdaLayerNormSingle,
        prompt_adaln: AdaLayerNormSingle,
        cross_adaln: AdaLayerNormSingle | None,
        gate_adaln: AdaLayerNormSingle | None,
        other_sigma: mx.array | None,
    ) -> StreamState:
        dtype = modality.latent.dtype
        scale = self.config.timestep_scale
        modulation, embedded = adaln(modality.timesteps * scale, dtype)
        prompt_modulation, _ = prompt_adaln(modality.sigma[:, None] * scale, dtype)
        cross_modulation = cross_gate = None
        if cross_adaln is not None and gate_adaln is not None and other_sigma is not None:
            cross_modulation, _ = cross_adaln(modality.timesteps * scale, dtype)
            cross_gate, _ = gate_adaln(other_sigma[:, None] * self.config.gate_timestep_scale, dtype)
        return StreamState(
            modality.context, modulation, prompt_modulation, embedded, modality.rotary, cross_modulation, cross_gate,
            modality.sharing, modality.spread,
        )  # fmt: skip

    def video_head(self, x: mx.array, state: StreamState) -> mx.array:
        """Tokens (B, T, Dv) to velocity (B, T, out_channels)."""
        return self.proj_out(self._modulated_norm(x, self.scale_shift_table, state))

    def audio_head(self, x: mx.array, state: StreamState) -> mx.array:
        """Tokens (B, T, Da) to velocity (B, T, out_channels)."""
        return self.audio_proj_out(self._modulated_norm(x, self.audio_scale_shift_table, state))

    def _modulated_norm(self, x: mx.array, table: mx.array, state: StreamState) -> mx.array:
        embedded = state.embedded  # the embedding without its SiLU
        normed = mx.fast.layer_norm(x, None, None, self.config.eps)
        return modulate(normed, (table[1:], embedded), (table[:1], embedded))
