"""The state of a run: latent tokens of each stream, and what of them is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np

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
        appended: (1, axes, K) positions of the last K tokens, which lie beside the clip's own and are dropped when it
            is made: keyframes that guide it. None for none.
    """

    tokens: mx.array
    mask: mx.array | None = None
    appended: np.ndarray | None = None

    @property
    def frozen(self) -> bool:
        """Whether nothing of the stream is made."""
        return self.mask is None

    def begin(self, previous: mx.array | None, noise: mx.array, level: float) -> mx.array:
        """The noisy tokens (1, T, C) that a stage begins with.

        Source: `ltx_core/components/noisers.py:GaussianNoiser` (1.2.0).

        Args:
            previous: Clean tokens that the stage starts from, without those appended; None for noise alone.
            noise: (B, T, C), of the appended tokens too.
            level: The noise level.
        """
        if previous is None:
            return self.restore(noise, noise, level)
        beside = mx.zeros((previous.shape[0], noise.shape[1] - previous.shape[1], previous.shape[2]))
        start = mx.concatenate([previous, beside], axis=1)
        return self.restore(noised(start, noise, level), noise, level)

    def restore(self, clean: mx.array, noisy: mx.array, sigma: float) -> mx.array:
        """A prediction of clean tokens, (B, T, C), with what is given in its place."""
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
class Remade:
    """A stream that is made again from its own clean tokens, noised to a level; above that level it waits.

    Attributes:
        tokens: (1, T, C) clean tokens, fp32.
        level: One of the stage's noise levels, so that no step goes across it.
    """

    tokens: mx.array
    level: float

    appended = None
    frozen = False

    def begin(self, previous: mx.array | None, noise: mx.array, level: float) -> mx.array:
        """The noisy tokens (1, T, C) that a stage begins with; arguments as `Given.begin`."""
        return noised(self.tokens if previous is None else previous, noise, min(level, self.level))

    def restore(self, clean: mx.array, noisy: mx.array, sigma: float) -> mx.array:
        """A prediction of clean tokens; while the stream waits its noisy tokens themselves, so that no step moves."""
        return noisy if sigma > self.level else clean

    def levels(self, sigma: float) -> tuple[mx.array, mx.array]:
        """The stream's noise level (1,), and that of its tokens (1, 1)."""
        level = mx.array([min(sigma, self.level)])
        return level, level[:, None]


Stream = Given | Remade | None
"""What is given of a stream; None where all of it is to be made."""


@dataclass(frozen=True)
class Conditions:
    """What is given of each stream. The adapted audio shares the audio's, unless it has its own."""

    video: Given | None = None
    audio: Stream = None
    adapted: Stream = None

    @property
    def streams(self) -> tuple[Stream, Stream, Stream]:
        """In the order of `Latents`."""
        return self.video, self.audio, self.adapted or self.audio

    @property
    def appended(self) -> np.ndarray | None:
        """(1, 3, K) positions of the tokens appended to the video; None for none."""
        return None if self.video is None else self.video.appended

    def begin(self, previous: Latents | None, noise: Latents, level: float) -> Latents:
        """Where a stage begins: noise, or the stage before with noise at a level, with what is given in its place."""

        def one(given: Stream, noise: mx.array | None, before: mx.array | None) -> mx.array | None:
            if noise is None:
                return None
            if given is None:
                return noise if before is None else noised(before, noise, level)
            return given.begin(before, noise, level)

        before = (None, None, None) if previous is None else previous
        return _latents(map(one, self.streams, noise, before))

    def restore(self, clean: Latents, noisy: Latents, sigma: float) -> Latents:
        """Predictions of clean tokens, with what is given in its place.

        Args:
            clean: As predicted.
            noisy: What they were predicted from.
            sigma: The noise level.
        """

        def one(given: Stream, stream: mx.array | None, noisy: mx.array | None) -> mx.array | None:
            return stream if stream is None or noisy is None or given is None else given.restore(stream, noisy, sigma)

        return _latents(map(one, self.streams, clean, noisy))

    def own(self, latents: Latents) -> Latents:
        """Latents without the tokens that were appended."""
        if self.appended is None or latents.video is None:
            return latents
        return latents._replace(video=latents.video[:, : -self.appended.shape[-1]])


NOTHING_GIVEN = Conditions()


def _latents(streams: Iterable[mx.array | None]) -> Latents:
    video, audio, adapted = streams
    assert audio is not None
    return Latents(video, audio, adapted)


def noise(geometry: Geometry, video_channels: int, audio_channels: int, seed: int, stage: int = 0) -> Latents:
    """Unit normal noise for a clip; the same on every backend, one key for each modality and stage.

    Args:
        geometry: The clip's size.
        video_channels, audio_channels: Width of a token.
        seed: Drives everything.
        stage: The stage's number in the run, from 0.
    """
    video_key, audio_key = mx.random.split(_stage_key(seed, stage))
    return Latents(
        video=mx.random.normal((1, geometry.video_tokens, video_channels), key=video_key),
        audio=mx.random.normal((1, geometry.audio_tokens, audio_channels), key=audio_key),
    )


def appended_noise(tokens: int, channels: int, seed: int, stage: int = 0) -> mx.array:
    """(1, tokens, channels) for tokens appended to the video, from a key of its own: the clip's stays as it is."""
    key = mx.random.split(_stage_key(seed, stage), 4)[3]
    return mx.random.normal((1, tokens, channels), key=key)


def _stage_key(seed: int, stage: int) -> mx.array:
    key = mx.random.key(seed)
    for _ in range(stage):
        key = mx.random.split(key, 3)[2]
    return key


NoiseSource = Callable[[Geometry, int, int, int, int], Latents]
"""`(geometry, video channels, audio channels, seed, stage) -> Latents`."""


def fresh_noise(seed: int, stage: int, draws: int) -> Callable[[Latents, int], Latents]:
    """Noise for a sampler that adds some in each step: the same on every backend, from keys of its own.

    The adapted audio gets that of the base audio, so that the two differ by the adapter alone.

    Source: `ltx_pipelines/utils/samplers.py:_get_new_noise`: brought to mean 0 and unbiased deviation 1, stream by
    stream. (Its seed is the same for all clips; here it follows the clip's.)

    Args:
        seed: The clip's.
        stage: The stage's number in the run, from 0.
        draws: How many there may be.
    """
    keys = mx.random.split(mx.random.split(_stage_key(seed, stage), 5)[4], draws)

    def draw(latents: Latents, number: int) -> Latents:
        video_key, audio_key = mx.random.split(keys[number])
        audio = _unit_noise(latents.audio, audio_key)
        return Latents(
            None if latents.video is None else _unit_noise(latents.video, video_key),
            audio,
            None if latents.adapted is None else audio,
        )

    return draw


def _unit_noise(like: mx.array, key: mx.array) -> mx.array:
    noise = mx.random.normal(like.shape, key=key)
    noise = noise - noise.mean()
    return noise / mx.sqrt(mx.var(noise, ddof=1))


def noised(clean: mx.array, noise: mx.array, level: float) -> mx.array:
    """Clean tokens with noise at a level.

    Source: `ltx_core/components/noisers.py:GaussianNoiser` (1.2.0): `lerp(latent, noise, noise_scale)` in fp32.
    """
    return clean + (noise - clean) * level
