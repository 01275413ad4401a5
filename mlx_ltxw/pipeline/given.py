"""What a run is given: pictures, a clip's frames and a sound, encoded to conditions for each of its stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_ltxw.pipeline.encode import encode_frames, encode_picture, encode_sound
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.keyframes import Keyframe, appended_positions, placed
from mlx_ltxw.pipeline.latents import NOTHING_GIVEN, Conditions, Given, Remade, Stream
from mlx_ltxw.pipeline.needs import GIVEN_PICTURE, GIVEN_SOUND
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan, Stage
from mlx_ltxw.pipeline.request import Settings
from mlx_ltxw.pipeline.spans import Made, Stretch, extended, retaken


@dataclass(frozen=True)
class Material:
    """What a run is given, read when it is encoded; a stage may want it at a size of its own.

    Attributes:
        images: For each of `placed(settings.images, ...)`: (width, height) -> (height, width, 3) fp32, 0 to 255.
        frames: (width, height) -> (F, height, width, 3) uint8, the given clip's frames at the run's rate: all of the
            run's, or those that the clip has where it is made longer.
        sound: rate -> (N, 2) fp32, the given sound over the run's whole time.
    """

    images: Sequence[Callable[[int, int], np.ndarray]] = ()
    frames: Callable[[int, int], np.ndarray] | None = None
    sound: Callable[[int], np.ndarray] | None = None


NO_MATERIAL = Material()


def made_of(settings: Settings, geometry: Geometry) -> Made:
    """What of a run's clip is made, and not given.

    Raises:
        UserError: a stretch outside of the clip.
    """
    if settings.retake is not None:
        return retaken(settings.retake, settings.retake_what, geometry)
    if settings.extend is not None:
        return extended(settings.extend, geometry)
    frames, tokens = geometry.latent_shape[0], geometry.audio_tokens
    return Made(Stretch(0, frames if settings.makes_picture else 0), Stretch(0, tokens if settings.makes_sound else 0))


def level_of(strength: float, sigmas: np.ndarray) -> float:
    """The noise level of a stage that is nearest to a strength: where its sound is made again from."""
    levels = np.asarray(sigmas[:-1], np.float64)
    return float(sigmas[int(np.abs(levels - strength).argmin())])


def conditions(job: Plan, networks: Networks, material: Material) -> tuple[Conditions, ...]:
    """What is given in each stage of a run. The encoders are loaded for it only where something is given."""
    if material == NO_MATERIAL:
        return (NOTHING_GIVEN,) * len(job.stages)
    sound = _encoded_sound(job, networks, material)
    videos: dict[tuple[int, int], Given | None] = {}
    result = []
    for stage in job.stages:
        size = stage.geometry.width, stage.geometry.height
        if size not in videos:
            videos[size] = _video(job, networks, material, stage.geometry)
        result.append(Conditions(videos[size], *_audio(job, stage, sound)))
    return tuple(result)


def _audio(job: Plan, stage: Stage, tokens: mx.array | None) -> tuple[Stream, Stream]:
    """The base audio's, and that of the adapted audio where it differs."""
    settings = job.settings
    if tokens is None:
        return None, None
    if settings.revoice is not None:
        again = Remade(tokens, level_of(settings.revoice, stage.sigmas))
        return (Given(tokens), again) if settings.locked else (again, None)
    made = made_of(settings, stage.geometry).audio
    return Given(tokens, mx.array(made.mask(tokens.shape[1])) if made else None), None


def _encoded_sound(job: Plan, networks: Networks, material: Material) -> mx.array | None:
    if material.sound is None:
        return None
    vae = networks.audio_vae(GIVEN_SOUND)
    tokens = encode_sound(vae, material.sound(vae.config.sample_rate), job.geometry.audio_tokens, networks.dtype)
    mx.eval(tokens)
    return tokens


def _video(job: Plan, networks: Networks, material: Material, geometry: Geometry) -> Given | None:
    if material.frames is None:
        return _with_images(job, networks, material, geometry) if material.images else None
    pixels = material.frames(geometry.width, geometry.height)
    tokens = encode_frames(networks.video_vae(GIVEN_PICTURE), pixels, networks.dtype)
    del pixels
    frames, rows, columns = geometry.latent_shape
    made, each = made_of(job.settings, geometry), rows * columns
    if not made.video:
        return Given(tokens)
    clip = tokens.shape[1] // each  # latent frames, whose first lies under one that is made where the clip has a lead
    before = max(0, made.lead * each)
    behind = (frames - made.lead - clip) * each
    whole = mx.pad(tokens, [(0, 0), (before, behind), (0, 0)])
    return Given(whole, mx.array(made.video.mask(frames, each)))


def _with_images(job: Plan, networks: Networks, material: Material, geometry: Geometry) -> Given:
    """Frame 0's picture takes the place of the first latent frame; the others' tokens are appended."""
    vae = networks.video_vae(GIVEN_PICTURE)
    keyframes = placed(job.settings.images, geometry.frames)
    encoded = [
        encode_picture(vae, read(geometry.width, geometry.height), networks.dtype)
        for read in material.images
    ]  # fmt: skip
    each, channels = encoded[0].shape[1:]
    clean, mask = mx.zeros((1, geometry.video_tokens, channels)), mx.ones((1, geometry.video_tokens))
    parts, shares = [clean], [mask]
    for keyframe, tokens in zip(keyframes, encoded, strict=True):
        share = mx.full((1, each), 1 - keyframe.strength)
        if keyframe.frame == 0:
            parts[0] = mx.concatenate([tokens, clean[:, each:]], axis=1)
            shares[0] = mx.concatenate([share, mask[:, each:]], axis=1)
        else:
            parts.append(tokens)
            shares.append(share)
    appended = appended_positions(keyframes, geometry)
    return Given(mx.concatenate(parts, axis=1), mx.concatenate(shares, axis=1), appended)


def images_of(settings: Settings) -> list[Keyframe]:
    """The pictures of a run, in order of time."""
    return placed(settings.images, settings.frames)
