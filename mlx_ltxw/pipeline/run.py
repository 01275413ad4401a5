"""A plan to clips, stage by stage; each network is gone before the next one loads, unless it is to be kept.

Source of the order: `ltx_pipelines/ti2vid_one_stage.py`, `t2a_one_stage.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from mlx_ltxw.machine import peak_memory, settle
from mlx_ltxw.models import ops
from mlx_ltxw.models.audio_vae import remove_offset, soften_onset
from mlx_ltxw.models.transformer import Walk
from mlx_ltxw.pipeline.adapters import Models, apply
from mlx_ltxw.pipeline.contexts import Contexts
from mlx_ltxw.pipeline.decode import decode_audio, decode_video
from mlx_ltxw.pipeline.denoise import Denoiser, rotaries
from mlx_ltxw.pipeline.encode import encode_frames
from mlx_ltxw.pipeline.events import Adapted, Conditioned, Decoded, Event, Step
from mlx_ltxw.pipeline.latents import NOTHING_GIVEN, Conditions, Given, Latents, NoiseSource, noise, renoise
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan, Stage


def run(
    job: Plan, networks: Networks | None = None, noise_source: NoiseSource = noise, picture: np.ndarray | None = None
) -> Iterator[Event]:
    """Makes one clip a seed.

    Args:
        job: From `plan`.
        networks: Of the job's model and dtype; None loads what is needed for this run alone.
        noise_source: The starting noise.
        picture: (F, H, W, 3) uint8 frames of the job's size, to be kept and given a voice; None makes one.

    Yields:
        Conditioned; Adapted, if there are adapters; then for each seed Step after Step, and Decoded.
    """
    began = time.perf_counter()
    settle()
    ops.settle_compile()
    mx.set_cache_limit(job.machine.cache_limit)
    networks = networks or Networks(job.model, job.dtype)
    contexts = networks.contexts(job.prompts)
    yield Conditioned(time.perf_counter() - began, peak_memory())
    given = NOTHING_GIVEN
    if picture is not None:
        tokens = encode_frames(networks.video_vae(), picture, job.dtype)
        given = Conditions(video=Given(tokens))
    models: Models | None = None
    for number, seed in enumerate(job.settings.seeds):
        if models is None:
            models = transformers(job, networks)
            if models.notes and number == 0:
                yield Adapted(models.notes)
        latents = None
        for step in steps(job, models, contexts, seed, given, noise_source):
            latents = step.latents
            yield step
        assert latents is not None
        if not job.resident or seed == job.settings.seeds[-1]:
            models = None
            mx.clear_cache()
        yield _decoded(job, networks, seed, latents)


def transformers(job: Plan, networks: Networks) -> Models:
    """The transformers of a run, with its adapters in place."""
    transformer = networks.transformer(job.settings.audio_only)
    return apply(transformer, job.adapters, job.settings, job.geometry, job.dtype)


def steps(
    job: Plan, models: Models, contexts: Contexts, seed: int, given: Conditions = NOTHING_GIVEN,
    noise_source: NoiseSource = noise,
) -> Iterator[Step]:  # fmt: skip
    """Denoises one clip: every step of every stage.

    Args:
        job: From `plan`.
        models: From `transformers`.
        contexts: The job's prompts, encoded.
        seed: The clip's random seed.
        given: What is not to be made.
        noise_source: The noise that stages start from.
    """
    index, latents = 0, None
    for number, stage in enumerate(job.stages):
        denoiser = Denoiser(
            models.base, models.adapted, contexts, stage.video_guidance, stage.audio_guidance,
            *rotaries(models.base, stage.geometry, job.dtype), job.dtype, given,
            Walk.bounded(job.machine.in_pieces),
        )  # fmt: skip
        start = _start(stage, latents, noise_source, models, seed, number)
        clock = time.perf_counter()
        for sigma, latents in zip(
            stage.sigmas, stage.sampler(denoiser, given.restore(start), stage.sigmas), strict=False
        ):
            index, now = index + 1, time.perf_counter()
            yield Step(seed, index, job.steps, float(sigma), now - clock, peak_memory(), latents)
            clock = time.perf_counter()


def _start(
    stage: Stage, previous: Latents | None, noise_source: NoiseSource, models: Models, seed: int, number: int
) -> Latents:
    """Where a stage begins."""
    config = models.base.config
    fresh = noise_source(stage.geometry, config.video.in_channels, config.audio.in_channels, seed, number)
    fresh = Latents(
        fresh.video if models.base.with_video else None, fresh.audio, fresh.audio if models.adapted else None
    )
    if stage.start == "noise" or previous is None:
        return fresh
    return renoise(previous, fresh, float(stage.sigmas[0]))


def _decoded(job: Plan, networks: Networks, seed: int, latents: Latents) -> Decoded:
    clock = time.perf_counter()
    waveform, rate = decode_audio(networks, latents.sound)
    if job.settings.soften_onset:
        waveform = np.asarray(soften_onset(mx.array(waveform)[None], rate)[0])
    if job.settings.remove_offset:
        waveform = remove_offset(waveform, rate)
    seconds = time.perf_counter() - clock
    made = latents.video if job.settings.video is None else None
    video = None if made is None else decode_video(networks, made, job.geometry)
    return Decoded(seed, video, waveform, rate, seconds, peak_memory())
