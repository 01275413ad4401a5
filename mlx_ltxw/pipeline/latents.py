"""The state of a run: latent tokens of each stream, and what of them is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from mlx_ltxw.pipeline.geometry import Geometry


class Latents(NamedTuple):
    """Tokens of each stream, fp32 (1, T, C); of the adapted audio (B, T, C), a row for each take.

    Attributes:
        video: None for audio without a picture.
        audio: The base audio, which the video reads.
        adapted: The adapted audios under the exact video lock, which nothing reads; None without one.
    """

    video: mx.array | None
    audio: mx.array
    adapted: mx.array | None = None

    @property
    def sound(self) -> mx.array:
        """The audio to decode, (1, T, C), or all adapted ones, (B, T, C)."""
        return self.audio if self.adapted is None else self.adapted

    def map(self, change: Callable[..., mx.array], *others: Latents) -> Latents:
        """`change(stream, stream of each other, ...)` for every stream there is."""
        changed = [
            None if stream is None else change(stream, *rest) for stream, *rest in zip(self, *others, strict=True)
        ]
        assert changed[1] is not None
        return Latents(changed[0], changed[1], changed[2])


@dataclass(frozen=True)
class Given:
    """What of one stream is given, and not to be made.

    Source: `ltx_core/types.py:LatentState`, `ltx_pipelines/utils/helpers.py:post_process_latent`.

    Attributes:
        tokens: (1, T, C) clean tokens, fp32; of no account where the mask is 1.
        mask: (1, T) fp32, the share of the noise level that a token sees: 1 is made anew, 0 is kept as it is. None
            keeps all: the stream is frozen, and the other stream's gates see noise level 0 too.
    """

    tokens: mx.array
    mask: mx.array | None = None

    @property
    def frozen(self) -> bool:
        """Whether nothing of the stream is made."""
        return self.mask is None

    def restore(self, clean: mx.array) -> mx.array:
        """Noise, or a prediction of clean tokens, (B, T, C), with what is given in its place."""
        if self.mask is None:
            return mx.broadcast_to(self.tokens, clean.shape)
        share = self.mask[..., None]
        return clean * share + self.tokens * (1 - share)

    def levels(self, sigma: float) -> tuple[mx.array, mx.array]:
        """The stream's noise level (1,), and that of its tokens (1, 1) or (1, T)."""
        level = mx.array([sigma])
        if self.mask is None:
            level = mx.zeros_like(level)
            return level, level[:, None]
        return level, self.mask * level[:, None]


@dataclass(frozen=True)
class Conditions:
    """What is given of each stream; None where all is to be made. The adapted audio shares the audio's."""

    video: Given | None = None
    audio: Given | None = None

    @property
    def streams(self) -> tuple[Given | None, Given | None, Given | None]:
        """In the order of `Latents`."""
        return self.video, self.audio, self.audio

    def restore(self, latents: Latents) -> Latents:
        """Noise, or predictions of clean tokens, with what is given in its place."""
        video, audio, adapted = (
            stream if stream is None or given is None else given.restore(stream)
            for given, stream in zip(self.streams, latents, strict=True)
        )
        assert audio is not None
        return Latents(video, audio, adapted)


NOTHING_GIVEN = Conditions()


def noise(geometry: Geometry, video_channels: int, audio_channels: int, seed: int, stage: int = 0) -> Latents:
    """Unit normal noise for a clip; the same on every backend, one key for each modality and stage.

    Args:
        geometry: The clip's size.
        video_channels, audio_channels: Width of a token.
        seed: Drives everything.
        stage: The stage's number in the run, from 0.
    """
    key = mx.random.key(seed)
    for _ in range(stage):
        key = mx.random.split(key, 3)[2]
    video_key, audio_key = mx.random.split(key)
    return Latents(
        video=mx.random.normal((1, geometry.video_tokens, video_channels), key=video_key),
        audio=mx.random.normal((1, geometry.audio_tokens, audio_channels), key=audio_key),
    )


NoiseSource = Callable[[Geometry, int, int, int, int], Latents]
"""`(geometry, video channels, audio channels, seed, stage) -> Latents`."""


def renoise(latents: Latents, noise: Latents, level: float) -> Latents:
    """Clean latents with noise at a level: where a stage begins that starts from another one's result.

    Source: `ltx_core/components/noisers.py:GaussianNoiser` (1.2.0): `lerp(latent, noise, noise_scale)` in fp32.
    """
    if latents.adapted is not None and noise.adapted is None:
        noise = noise._replace(adapted=noise.audio)
    return latents.map(lambda x, n: x + (n - x) * level, noise)
