"""Loss and gradient of one group of clips.

Decoupled, the default: under the exact video lock nothing that is trained reaches the video, so the base streams run
forward only and the adapted audio stream alone is differentiated. Coupled: one joint forward of the adapted model is
differentiated through both streams, as the official trainer does (`ltx_trainer/trainer.py:_training_step`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import NamedTuple

import mlx.core as mx

from mlx_ltxw.adapter.streamed import blocks_on_demand
from mlx_ltxw.machine import this_machine
from mlx_ltxw.models.transformer import DIRECT, Call, Compiled, Modality, Rotary, Shared, Transformer, Walk, directly
from mlx_ltxw.models.transformer import compiles as blocks_compile
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.gradient import audio_stream, sigmas
from mlx_ltxw.train.gradient.blocks import IN_MEMORY, WholeBlocks
from mlx_ltxw.train.gradient.layout import Factors, Layout, clear_factors, set_factors
from mlx_ltxw.train.gradient.loss import noised, velocity_loss
from mlx_ltxw.train.gradient.recompute import cast_at_each_use, checkpointed
from mlx_ltxw.weights.dtype import default_dtype

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}


class Group(NamedTuple):
    """Clips of one shape, as a compiled function takes them.

    Attributes:
        audio: (B, Ta, C) clean tokens.
        audio_context: (B, S, Da) text.
        audio_rotary: Rotations of the audio's tokens.
        keys: (B, 2) of the random numbers, a clip's own each.
        video, video_context, video_rotary: (B, Tv, C), (B, S, Dv) and rotations of the picture; None for sound alone.
    """

    audio: mx.array
    audio_context: mx.array
    audio_rotary: Rotary
    keys: mx.array
    video: mx.array | None = None
    video_context: mx.array | None = None
    video_rotary: Rotary | None = None


@dataclass(frozen=True)
class Draw:
    """Noise and its levels for a group of B clips with k draws each.

    Attributes:
        audio: (B, k, Ta, C) noise.
        audio_sigma: (B, k).
        video: (B, Tv, C) noise; None without a picture.
        video_sigma: (B,).
    """

    audio: mx.array
    audio_sigma: mx.array
    video: mx.array | None = None
    video_sigma: mx.array | None = None


def draw_noise(group: Group, config: TrainConfig) -> Draw:
    """Draws for each clip from its own key, so that the numbers do not depend on what else is in the group.

    With shared levels all draws of a clip have its video's, which is drawn for the video's token count.
    """
    count = config.audio_draws
    audios, audio_sigmas, videos, video_sigmas = [], [], [], []
    for i in range(len(group.keys)):
        video_key, audio_key, video_level, audio_level = mx.random.split(group.keys[i], 4)
        audio_shape = group.audio.shape[1:]
        audios.append(mx.random.normal((count, *audio_shape), key=audio_key))
        own = sigmas.draw_sigmas(audio_level, audio_shape[0], count)
        if group.video is not None:
            video_shape = group.video.shape[1:]
            videos.append(mx.random.normal(video_shape, key=video_key))
            level = sigmas.draw_sigmas(video_level, video_shape[0])
            video_sigmas.append(level[0])
            own = mx.repeat(level, count) if config.sigma == "shared" else own
        audio_sigmas.append(own)
    if not videos:
        return Draw(mx.stack(audios), mx.stack(audio_sigmas))
    return Draw(mx.stack(audios), mx.stack(audio_sigmas), mx.stack(videos), mx.stack(video_sigmas))


def compiles(config: TrainConfig, streams: bool = False) -> bool:
    """Whether the step is one compiled function: as the run says, otherwise on a Mac's GPU. Blocks that are read from
    disk as they are needed are no part of a compiled function.

    MLX's CUDA backend builds each fused kernel of the step in dozens of variants, minutes before the first step: there
    single blocks are compiled (`audio_stream.traced`). Its CPU backend compiles nothing here (`models/ops/device.py`).
    """
    if streams:
        return False
    return this_machine().backend == "metal" if config.compile is None else config.compile


AHEAD = 3
"""Compiled blocks that may be unfinished while the next one is described. On an H200 a step of one clip of 192x192x97
took 0.23 to 0.27 s so, with one block 0.27 to 0.46, and held 0.1 GB more (`docs/log.md`)."""


def walking(compiled: bool) -> Walk:
    """How a decoupled step goes over the blocks (`audio_stream.gradient`).

    A GPU begins while Python describes the next block, and no more than that one: each is handed over whole, the base's
    with it, and holds all that it makes. On a CPU, where nothing is gained by that, each is waited for. A compiled
    function may submit nothing.
    """
    if compiled:
        return Walk()
    return Walk.bounded(in_parts=False) if this_machine().in_pieces else Walk(submit_every=1, window=0)


class Objective:
    """Losses and gradients of the adapter's vector.

    Args:
        base: The frozen transformer.
        adapted: Its clone with LoRA branches beside the trained linears; changed as `config` needs it, and without
            numbers except while a gradient is computed.
        layout: Which part of the vector is which factor.
        config: The run's training options.
        whole: Where the blocks of both come from.
    """

    def __init__(
        self, base: Transformer, adapted: Transformer, layout: Layout, config: TrainConfig,
        whole: WholeBlocks = IN_MEMORY,
    ) -> None:  # fmt: skip
        self.base, self.adapted, self.layout, self.config = base, adapted, layout, config
        self.dtype = DTYPES[config.activations]
        adapted.freeze()
        adapted.unfreeze(keys=["lora_A", "lora_B"], strict=False)
        compiled = compiles(config, blocks_on_demand(base) is not None)
        cast_at_each_use(adapted, self.dtype, compiled)
        self._branches = layout.branches(adapted)
        clear_factors(self._branches)
        self._walk = walking(compiled)
        self.whole = whole
        self._call = None if compiled or config.compile is False or whole is not IN_MEMORY else Compiled()
        again = partial(checkpointed, whole=whole.after)
        self._coupled_walk = Walk(run=again) if config.gradient_checkpointing else Walk()  # inside a gradient
        self._step = mx.compile(self._drawn_gradient) if compiled else self._drawn_gradient

    def __call__(self, parameters: mx.array, group: Group, weight: mx.array) -> tuple[mx.array, mx.array]:
        """Draws noise for a group, and differentiates.

        Args:
            parameters: (N,) fp32.
            group: Clips.
            weight: Scalar; of one clip: 1 over the clips of the step.

        Returns:
            The gradient (N,), and (2,) the weighted sums of the audio and video losses.
        """
        return self._step(parameters, group, weight)

    def _drawn_gradient(self, parameters: mx.array, group: Group, weight: mx.array) -> tuple[mx.array, mx.array]:
        return self.gradient(parameters, group, draw_noise(group, self.config), weight)

    def gradient(self, parameters: mx.array, group: Group, noise: Draw, weight: mx.array) -> tuple[mx.array, mx.array]:
        """As `__call__`, for noise already drawn; not compiled.

        Each factor is differentiated for itself. The gradient of a vector of which every factor is a slice would be a
        sum of as many vectors of full length.
        """
        factors = self.layout.factors(parameters)
        find = self._coupled if self.config.coupled and noise.video is not None else self._decoupled
        gradients, sums = find(factors, group, noise, weight)
        clear_factors(self._branches)
        return self.layout.flat(gradients), sums

    def _coupled(self, factors: Factors, group: Group, noise: Draw, weight: mx.array) -> tuple[Factors, mx.array]:
        video, audio = self._video(group, noise), self._audio(group, noise, 1)

        def total(factors: Factors) -> tuple[mx.array, mx.array]:
            set_factors(factors, self._branches)
            video_velocity, audio_velocity = self.adapted(video, audio, walk=self._coupled_walk)
            audio_loss, video_loss = mx.sum(self._audio_loss(audio_velocity, group, noise)), mx.zeros(())
            if self.config.video_loss:
                assert group.video is not None
                assert noise.video is not None
                video_loss = mx.sum(velocity_loss(video_velocity, group.video, noise.video))
            sums = weight * mx.stack([audio_loss, video_loss])
            return sums[0] + self.config.video_loss * sums[1], sums

        (_, sums), gradients = mx.value_and_grad(total)(factors)
        return gradients, sums

    def _decoupled(self, factors: Factors, group: Group, noise: Draw, weight: mx.array) -> tuple[Factors, mx.array]:
        """The audio stream's, beside a video that it does not change or without one."""
        set_factors(factors, self._branches)
        call, again = self._calling(group), self.config.gradient_checkpointing
        video: Modality | None = None
        watched: Iterable[Shared] = repeat(Shared(), len(self.adapted.transformer_blocks))
        if noise.video is not None:
            video, watched = self._video_at_draws(group, noise), self._watch(group, noise, call)
        loss, by_branch = audio_stream.gradient(
            self.adapted,
            self._audio(group, noise, noise.audio.shape[1]),
            video,
            watched,
            lambda velocity: weight * mx.sum(self._audio_loss(velocity, group, noise)),
            again=again,
            walk=self._walk if call is None or again else replace(self._walk, window=AHEAD),
            whole=self.whole,
            call=call,
        )
        gradients: Factors = []
        for a, b, branch in zip(factors[::2], factors[1::2], self._branches, strict=True):
            gradients += by_branch.get(id(branch)) or (mx.zeros_like(a), mx.zeros_like(b))  # sound alone reads no video
        return gradients, mx.stack([loss, mx.zeros(())])

    def _calling(self, group: Group) -> Call | None:
        """How blocks are called; None: described anew, each as it is."""
        clips, tokens = (group.audio if group.video is None else group.video).shape[:2]
        return self._call if blocks_compile(clips * tokens) else None

    def _watch(self, group: Group, noise: Draw, call: Call | None) -> Iterator[Shared]:
        """What the adapted audio shares with the base streams, block by block.

        No gradient passes here, so it runs in the dtype that the picture is generated in, and a GPU is handed it part
        by part. The text is read anew if there are several draws, which have noise levels of their own.
        """
        dtype = default_dtype()
        video, audio = self._video(group, noise, dtype), self._audio(group, noise, 1, dtype)
        walk = Walk.bounded() if self._walk.window and call is None else DIRECT
        for shared in self.base.watch(video, audio, walk, call or directly):
            yield shared if noise.audio.shape[1] == 1 else shared._replace(text=None)

    def _video_at_draws(self, group: Group, noise: Draw) -> Modality:
        """The video as the adapted audio's states need it: they read the gates' levels from sigma, one a draw."""
        video = self._video(group, noise)
        return video._replace(sigma=mx.repeat(video.sigma, noise.audio.shape[1]))

    def _video(self, group: Group, noise: Draw, dtype: mx.Dtype | None = None) -> Modality:
        assert group.video is not None
        assert group.video_context is not None
        assert group.video_rotary is not None
        assert noise.video is not None
        assert noise.video_sigma is not None
        latent = noised(group.video, noise.video, noise.video_sigma)
        return self._modality(latent, noise.video_sigma, group.video_context, group.video_rotary, dtype)

    def _audio(self, group: Group, noise: Draw, draws: int, dtype: mx.Dtype | None = None) -> Modality:
        """The first draws of each clip, those of one clip in a row."""
        clean = mx.repeat(group.audio, draws, axis=0)
        sigma = noise.audio_sigma[:, :draws].reshape(-1)
        latent = noised(clean, noise.audio[:, :draws].flatten(0, 1), sigma)
        context = mx.repeat(group.audio_context, draws, axis=0)
        return self._modality(latent, sigma, context, group.audio_rotary, dtype)

    def _audio_loss(self, velocity: mx.array, group: Group, noise: Draw) -> mx.array:
        """(B,) mean over the draws."""
        clips, draws = noise.audio.shape[:2]
        clean = mx.repeat(group.audio, draws, axis=0)
        return mx.mean(velocity_loss(velocity, clean, noise.audio.flatten(0, 1)).reshape(clips, draws), axis=1)

    def _modality(
        self, latent: mx.array, sigma: mx.array, context: mx.array, rotary: Rotary, dtype: mx.Dtype | None
    ) -> Modality:
        dtype = dtype or self.dtype
        return Modality(latent.astype(dtype), sigma, sigma[:, None], context.astype(dtype), rotary)
