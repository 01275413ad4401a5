"""Predicts clean latents: one guided evaluation of the transformer, at one noise level.

Source: `ltx_pipelines/utils/denoisers.py:_guided_denoise`, `ltx_core/utils.py:to_denoised`.
Latents stay fp32 between steps; the transformer sees them in its own dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_ltxw.models.ops.twins import no_gradients
from mlx_ltxw.models.transformer import (
    DIRECT,
    Accompaniment,
    Call,
    Forward,
    Modality,
    Rotary,
    Transformer,
    Walk,
    accompanied_forward,
    audio_forward,
    directly,
    joint_forward,
    rotary,
)
from mlx_ltxw.pipeline.contexts import Contexts
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.guidance import Guidance, Pass, combine, passes
from mlx_ltxw.pipeline.latents import NOTHING_GIVEN, Conditions, Latents, Stream
from mlx_ltxw.pipeline.split import WHOLE_RUN, Split
from mlx_ltxw.pipeline.streams import AdaptedStream, gathered


@dataclass(frozen=True)
class Denoiser:
    """Everything about a stage that stays the same from step to step.

    Attributes:
        model: The base transformer, or the adapted one when there is no lock.
        adapted: The adapted audio streams under the exact video lock; none without one.
        contexts: Text contexts of the prompt and, where guidance needs it, the negative prompt.
        video_guidance: None without a video.
        audio_guidance: How the audio is steered, base and adapted alike.
        video_rotary, audio_rotary: Rotation tables.
        dtype: bf16 or fp32, of the transformer's activations.
        given: What is not to be made.
        walk: How a forward goes over the blocks.
        split: What of it this machine computes.
        call: How blocks are called.
    """

    model: Transformer
    adapted: Sequence[AdaptedStream]
    contexts: Contexts
    video_guidance: Guidance | None
    audio_guidance: Guidance
    video_rotary: Rotary | None
    audio_rotary: Rotary
    dtype: mx.Dtype
    given: Conditions = NOTHING_GIVEN
    walk: Walk = DIRECT
    split: Split = WHOLE_RUN
    call: Call = directly

    def __call__(self, latents: Latents, sigma: float) -> Latents:
        """The guided prediction of clean latents at a noise level, with what is given in its place; fp32."""
        every = passes(self.video_guidance, self.audio_guidance, self._layers)
        with self.split.world.pulse:
            clean = self.split.all_passes(every, self.predict(latents, sigma, every), latents, self._layers)
        steering = (self.video_guidance, self.audio_guidance, self.audio_guidance)
        video, audio, adapted = (
            None
            if guidance is None or predicted[0] is None
            else combine(guidance, dict(zip(clean, predicted, strict=True)))
            for guidance, *predicted in zip(steering, *clean.values(), strict=True)
        )
        assert audio is not None
        return self.restore(Latents(video, audio, adapted), latents, sigma)

    def restore(self, clean: Latents, noisy: Latents, sigma: float) -> Latents:
        """A prediction, or a sampler's step from `noisy` at `sigma`, with what is given in its place."""
        return self.given.restore(clean, noisy, sigma)

    @property
    def _layers(self) -> int:
        return len(self.model.transformer_blocks)

    def predict(self, latents: Latents, sigma: float, runs: Sequence[Pass]) -> dict[str, Latents]:
        """Clean latents, fp32 and evaluated, as each pass predicts them; all go over the blocks side by side.

        Of several machines that share passes each predicts its own.
        """
        with no_gradients():
            return self._predicted(latents, sigma, runs)

    def _predicted(self, latents: Latents, sigma: float, runs: Sequence[Pass]) -> dict[str, Latents]:
        every, runs = runs, self.split.own_passes(runs, self._layers)
        of_text: dict[bool, _Described] = {}
        for one in runs:
            if one.negative not in of_text:
                like = next((each.forward for each in of_text.values()), None)
                of_text[one.negative] = self._described(latents, sigma, one.negative, like)
        given = self.split.walked(self.walk, every, [(one, of_text[one.negative].forward) for one in runs])
        clean = {one.name: of_text[one.negative].clean(given[one.name]) for one in runs if one.name in given}
        mx.eval(clean)
        self.split.settle()
        return clean

    def _described(self, latents: Latents, sigma: float, negative: bool, like: Forward | None) -> _Described:
        """The forward of the passes that read one prompt; `like` reads the other."""
        text = self.contexts
        audio = self._modality(latents.audio, sigma, self.given.audio, text.audio(negative), self.audio_rotary)
        if latents.video is None or self.video_rotary is None:
            forward = audio_forward(self.model, audio, like, self.call)
            return _Described(forward, lambda made: Latents(None, _clean(latents.audio, made, audio)))
        video = self._modality(latents.video, sigma, self.given.video, text.video(negative), self.video_rotary)
        adapted, second = latents.adapted, audio
        if adapted is not None and (waits := self.given.adapted) is not None:
            level, timesteps = waits.levels(sigma)
            second = second._replace(sigma=level, timesteps=timesteps)
        others: list[Accompaniment] = []
        if adapted is not None:
            others = [
                Accompaniment(stream.model, stream.modality(adapted, second, text, negative)) for stream in self.adapted
            ]

        def described(of_video: Modality) -> Forward:
            if others:
                return accompanied_forward(self.model, others, of_video, audio, like, self.call)
            return joint_forward(self.model, of_video, audio, like, self.call)

        own = self.split.modality(video, described)

        def clean(made: Any) -> Latents:
            assert latents.video is not None
            of_video = self.split.whole(made[0], own)
            both = Latents(_clean(latents.video, of_video, video), _clean(latents.audio, made[1], audio))
            if adapted is None or not others:
                return both
            return both._replace(adapted=_clean(adapted, gathered(self.adapted, made[2]), second))

        return _Described(described(own), clean)

    def _modality(self, latent: mx.array, sigma: float, given: Stream, context: mx.array, rotary: Rotary) -> Modality:
        level = mx.array([sigma])
        own, timesteps = (level, level[:, None]) if given is None else given.levels(sigma)
        return Modality(latent.astype(self.dtype), own, timesteps, context, rotary)


class _Described(NamedTuple):
    """A forward, and what its velocities make of the noisy latents."""

    forward: Forward
    clean: Callable[[Any], Latents]


def rotaries(
    model: Transformer,
    geometry: Geometry,
    dtype: mx.Dtype,
    appended: np.ndarray | None = None,
    split: Split = WHOLE_RUN,
) -> tuple[Rotary | None, Rotary]:
    """Rotation tables of a clip's video (None for an audio-only model) and audio tokens.

    Args:
        model: The transformer.
        geometry: The clip's size.
        dtype: Of the tables.
        appended: (1, 3, K) positions of tokens behind the video's own.
        split: With some of the heads, their tables alone.
    """
    config, positions = model.config, geometry.video_positions()
    if appended is not None:
        positions = np.concatenate([positions, appended], axis=-1)
    video = rotary(config, config.video, positions, dtype) if model.with_video else None
    audio = split.rotary(rotary(config, config.audio, geometry.audio_positions(), dtype), config)
    assert audio is not None
    return split.rotary(video, config), audio


def _clean(latent: mx.array, velocity: mx.array, modality: Modality) -> mx.array:
    return latent - velocity.astype(mx.float32) * modality.timesteps[..., None]
