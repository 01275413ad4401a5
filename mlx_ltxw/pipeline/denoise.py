"""The denoising loop: Euler steps on clean-latent predictions, for one clip.

Source: `ltx_pipelines/utils/samplers.py:euler_denoising_loop`, `ltx_core/components/diffusion_steps.py`, `utils.py`.
Latents stay fp32 between steps; the transformer sees them in its own dtype.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_ltxw.models.transformer import DIRECT, Modality, Rotary, Transformer, Walk, rotary
from mlx_ltxw.pipeline.conditioning import Contexts
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.guidance import Guidance, Pass, combine, passes


@dataclass(frozen=True)
class Latents:
    """The state between steps, fp32 tokens (1, T, C).

    Attributes:
        video: None for audio without a picture.
        audio: The base audio, which the video reads.
        adapted: The adapted audio under the exact video lock, which nothing reads.
    """

    video: mx.array | None
    audio: mx.array
    adapted: mx.array | None = None

    @property
    def heard(self) -> mx.array:
        """The audio to decode."""
        return self.audio if self.adapted is None else self.adapted

    def present(self) -> dict[str, mx.array]:
        """The streams there are, by name."""
        streams = {"video": self.video, "audio": self.audio, "adapted": self.adapted}
        return {name: latent for name, latent in streams.items() if latent is not None}


def noise(geometry: Geometry, video_channels: int, audio_channels: int, seed: int) -> Latents:
    """Unit normal noise for a clip; the same on every backend, one key for each modality.

    Args:
        geometry: The clip's size.
        video_channels, audio_channels: Width of a token.
        seed: Drives everything.
    """
    video_key, audio_key = mx.random.split(mx.random.key(seed))
    return Latents(
        video=mx.random.normal((1, geometry.video_tokens, video_channels), key=video_key),
        audio=mx.random.normal((1, geometry.audio_tokens, audio_channels), key=audio_key),
    )


@dataclass(frozen=True)
class Denoiser:
    """Everything about a run that stays the same from step to step.

    Attributes:
        model: The base transformer, or the adapted one when there is no lock.
        adapted: The adapted transformer under the exact video lock; None without one.
        contexts: Text contexts of the prompt and, where guidance needs it, the negative prompt.
        video_guidance: None without a video.
        audio_guidance: Of the audio.
        video_rotary, audio_rotary: Rotation tables.
        dtype: Of the transformer's activations.
        frozen_video: Whether the video is given: never stepped, seen at noise level 0.
        walk: How a forward goes over the blocks.
    """

    model: Transformer
    adapted: Transformer | None
    contexts: Contexts
    video_guidance: Guidance | None
    audio_guidance: Guidance
    video_rotary: Rotary | None
    audio_rotary: Rotary
    dtype: mx.Dtype
    frozen_video: bool = False
    walk: Walk = DIRECT

    def step(self, latents: Latents, sigma: float, next_sigma: float) -> Latents:
        """One Euler step of every stream from `sigma` to `next_sigma`."""
        runs = passes(self.video_guidance, self.audio_guidance, len(self.model.transformer_blocks))
        clean: dict[str, dict[str, mx.array]] = {}
        for run in runs:
            for stream, prediction in self.predict(latents, sigma, run).items():
                clean.setdefault(stream, {})[run.name] = prediction
            mx.eval(clean)  # one pass in flight at a time: activations of the next one wait
        return replace(latents, **{
            stream: _euler(latent, combine(self._guidance(stream), clean[stream]), sigma, next_sigma)
            for stream, latent in latents.present().items()
            if not (stream == "video" and self.frozen_video)
        })  # fmt: skip

    def predict(self, latents: Latents, sigma: float, run: Pass) -> dict[str, mx.array]:
        """Clean latents, fp32, by stream name, as one pass predicts them."""
        level = mx.array([sigma])
        video_level = mx.zeros_like(level) if self.frozen_video else level
        audio = self._audio(latents.audio, level, run.negative)
        if latents.video is None or self.video_rotary is None:
            return {"audio": _clean(latents.audio, self.model.audio_alone(audio, run.skips, self.walk), level)}
        video = Modality(
            latents.video.astype(self.dtype),
            video_level,
            video_level[:, None],
            self.contexts.video(run.negative),
            self.video_rotary,
        )
        if latents.adapted is None or self.adapted is None:
            velocities = dict(zip(("video", "audio"), self.model(video, audio, run.skips, self.walk), strict=True))
        else:
            second = self._audio(latents.adapted, level, run.negative)
            outputs = self.model.locked(self.adapted, video, audio, second, run.skips, self.walk)
            velocities = dict(zip(("video", "audio", "adapted"), outputs, strict=True))
        levels = {"video": video_level, "audio": level, "adapted": level}
        present = latents.present()
        return {name: _clean(present[name], velocity, levels[name]) for name, velocity in velocities.items()}

    def _audio(self, latent: mx.array, level: mx.array, negative: bool) -> Modality:
        return Modality(
            latent.astype(self.dtype), level, level[:, None], self.contexts.audio(negative), self.audio_rotary
        )

    def _guidance(self, stream: str) -> Guidance:
        guidance = self.video_guidance if stream == "video" else self.audio_guidance
        assert guidance is not None
        return guidance


def denoise(denoiser: Denoiser, latents: Latents, sigmas: np.ndarray) -> Iterator[Latents]:
    """Yields the latents after each step, evaluated."""
    for sigma, next_sigma in itertools.pairwise(sigmas):
        latents = denoiser.step(latents, float(sigma), float(next_sigma))
        mx.eval(latents.present())
        yield latents


def rotaries(model: Transformer, geometry: Geometry, dtype: mx.Dtype) -> tuple[Rotary | None, Rotary]:
    """Rotation tables of a clip's video (None for an audio-only model) and audio tokens."""
    config = model.config
    video = rotary(config, config.video, geometry.video_positions(), dtype) if model.with_video else None
    return video, rotary(config, config.audio, geometry.audio_positions(), dtype)


def _clean(latent: mx.array, velocity: mx.array, level: mx.array) -> mx.array:
    return latent - velocity.astype(mx.float32) * level[:, None, None]


def _euler(latent: mx.array, clean: mx.array, sigma: float, next_sigma: float) -> mx.array:
    return latent + (latent - clean) * ((next_sigma - sigma) / sigma)
