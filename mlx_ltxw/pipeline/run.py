"""A plan to clips, stage by stage; each network is gone before the next one loads, unless it is to be kept.

Source of the order: `ltx_pipelines/ti2vid_one_stage.py`, `t2a_one_stage.py`.
"""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Generator, Iterator, Sequence

import mlx.core as mx
import numpy as np

from mlx_ltxw.gpu_errors import telling_gpu_errors
from mlx_ltxw.machine import limits, peak_memory, settle
from mlx_ltxw.models import ops
from mlx_ltxw.models.audio_vae import remove_offset, soften_onset
from mlx_ltxw.models.transformer import Walk, calling, directly
from mlx_ltxw.pipeline.adapters import Models
from mlx_ltxw.pipeline.contexts import Contexts
from mlx_ltxw.pipeline.decode import decode_audio, decode_video
from mlx_ltxw.pipeline.denoise import Denoiser, rotaries
from mlx_ltxw.pipeline.events import Adapted, Conditioned, Decoded, Event, Resumed, Step
from mlx_ltxw.pipeline.given import NO_MATERIAL, Material, conditions
from mlx_ltxw.pipeline.latents import (
    NOTHING_GIVEN,
    Conditions,
    Latents,
    NoiseSource,
    appended_noise,
    fresh_noise,
    noise,
)
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.numbers import check_finite
from mlx_ltxw.pipeline.pace import Pace
from mlx_ltxw.pipeline.plan import Plan, pace_key
from mlx_ltxw.pipeline.point import NOTHING_DONE, DoneBefore, ResumePoint
from mlx_ltxw.pipeline.prompt_cache import default_folder
from mlx_ltxw.pipeline.recipes import Stage
from mlx_ltxw.pipeline.split import TENSOR, TOKENS
from mlx_ltxw.pipeline.transformers import Transformers
from mlx_ltxw.pipeline.upsample import upsampled
from mlx_ltxw.pipeline.voices import take_rows
from mlx_ltxw.world import ALONE


@telling_gpu_errors
def run(
    job: Plan, networks: Networks | None = None, noise_source: NoiseSource = noise, material: Material = NO_MATERIAL,
    progress: DoneBefore = NOTHING_DONE,
) -> Generator[Event, None, None]:  # fmt: skip
    """Makes one clip a seed, or one for each of its takes, which share its picture.

    Args:
        job: From `plan`.
        networks: Of the job's model and dtype; None loads what is needed for this run alone.
        noise_source: The starting noise.
        material: What the job's settings say is given: pictures, frames, sound.
        progress: What an earlier run of the same job has done.

    Yields:
        Conditioned; Adapted, if there are adapters; then for each seed Step after Step, and Decoded, for each take. A
        seed that was begun has a Resumed first; where no step is left to do, there is nothing before it.
    """
    settle()
    ops.settle_compile()
    networks = networks or Networks(job.model, job.dtype)
    with limits(job.machine) as parts, networks.announcing(lambda name: parts.begin(name, *job.budget.part(name))):
        yield from _run(job, networks, noise_source, material, progress)


def _run(
    job: Plan, networks: Networks, noise_source: NoiseSource, material: Material, progress: DoneBefore
) -> Generator[Event, None, None]:
    seeds = [seed for seed in job.settings.seeds if seed not in progress.done]
    points = {seed: progress.points.get(seed) for seed in seeds}
    ahead = [seed for seed, point in points.items() if point is None or point.index < job.steps]
    if ahead:
        began = time.perf_counter()
        contexts = networks.contexts(job.prompts, job.cache)
        check_finite("The prompt's contexts", contexts.video_contexts, contexts.audio_contexts)
        yield Conditioned(time.perf_counter() - began, peak_memory(), networks.encoded)
        given = conditions(job, networks, material)
    models: Transformers | None = None
    for seed, point in points.items():
        latents = None if point is None else point.latents
        if point is not None:
            yield Resumed(seed, point.index, job.steps, point.latents)
        if seed in ahead:
            models = models or transformers(job, networks)
            if seed == ahead[0] and (notes := models.of(_next_stage(job, point)).notes):
                yield Adapted(notes)
            for step in steps(job, models, contexts, seed, given, noise_source, point):
                latents = step.latents
                yield step
        assert latents is not None
        if not job.resident or seed == seeds[-1]:
            models = None
            mx.clear_cache()
        yield from _decoded(job, networks, seed, latents, material)


def _next_stage(job: Plan, point: ResumePoint | None) -> Stage:
    """The stage of the step that comes next."""
    index = 0 if point is None else point.index
    ends = itertools.accumulate(stage.steps for stage in job.stages)
    return next(stage for stage, end in zip(job.stages, ends, strict=True) if end > index)


def transformers(job: Plan, networks: Networks) -> Transformers:
    """The transformers of a run, each loaded when a stage needs it."""
    return Transformers(job, networks)


def steps(
    job: Plan, models: Transformers, contexts: Contexts, seed: int, given: Sequence[Conditions] = (),
    noise_source: NoiseSource = noise, point: ResumePoint | None = None,
) -> Iterator[Step]:  # fmt: skip
    """Denoises one clip: every step of every stage.

    Args:
        job: From `plan`.
        models: From `transformers`.
        contexts: The job's prompts, encoded.
        seed: The clip's random seed.
        given: What is not to be made, for each stage; empty for nothing.
        noise_source: The noise that stages start from.
        point: Where to go on, of an earlier run of the same job; None begins.
    """
    end, latents = 0, None
    for number, stage in enumerate(job.stages):
        begin, end = end, end + stage.steps
        if point is not None and point.index >= end:
            latents = point.latents
            continue
        kept = given[number] if given else NOTHING_GIVEN
        inside = point if point is not None and point.index > begin else None
        if inside is None and stage.upsampler is not None and latents is not None:
            latents = upsampled(latents, job.stages[number - 1].geometry, stage.upsampler, models.networks)
        for step in _stage_steps(job, models, contexts, seed, kept, noise_source, number, latents, inside):
            latents = step.latents
            yield step


def _stage_steps(
    job: Plan, models: Transformers, contexts: Contexts, seed: int, kept: Conditions, noise_source: NoiseSource,
    number: int, previous: Latents | None, point: ResumePoint | None,
) -> Iterator[Step]:  # fmt: skip
    """The steps of one stage, from what the stage before made on, or from a point inside of it."""
    stage = job.stages[number]
    own, index = models.of(stage), sum(before.steps for before in job.stages[:number])
    tokens = stage.geometry.video_tokens if own.base.with_video else stage.geometry.audio_tokens
    denoiser = Denoiser(
        own.base, own.streams, contexts.astype(job.dtype), stage.video_guidance, stage.audio_guidance,
        *rotaries(own.base, stage.geometry, job.dtype, kept.appended, job.split), job.dtype, kept,
        Walk.bounded(job.machine.in_pieces, job.split.world.pulse.beat), job.split,
        directly if job.split.how in (TENSOR, TOKENS) else calling(tokens),
    )  # fmt: skip
    if point is None:
        done, start = 0, _start(job, stage, previous, kept, noise_source, own, seed, number)
        sounds = None if stage.finishes_sound or previous is None else previous._replace(video=None)
    else:
        done, start, sounds = point.index - index, point.latents, point.sounds
    fresh = fresh_noise(seed, number, 2 * stage.steps)
    clock, taken = time.perf_counter(), []
    predict = _Latest(denoiser)
    models.networks.begins("transformer")
    for step, state in enumerate(stage.sampler(predict, start, stage.sigmas, fresh, done), done + 1):
        now, latents, at = time.perf_counter(), kept.own(state), index + step
        if step == stage.steps and sounds is not None:
            latents = latents._replace(audio=sounds.audio, adapted=sounds.adapted)
        check_finite(f"The latents of step {at}", latents.video, latents.audio, latents.adapted, dtype=job.dtype)
        here = ResumePoint(at, latents) if step == stage.steps else ResumePoint(at, state, sounds)
        level, clean = float(stage.sigmas[step - 1]), kept.own(predict.clean)
        taken.append(now - clock)
        yield Step(seed, at, job.steps, level, now - clock, peak_memory(), latents, clean, here)
        models.networks.begins("transformer")  # previews are decoded between steps
        clock = time.perf_counter()
    if job.cache:
        Pace(default_folder()).note(pace_key(job, stage), stage, taken)


class _Latest:
    """A denoiser that remembers what it predicted last."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self.restore = denoiser.restore
        self.clean: Latents

    def __call__(self, latents: Latents, sigma: float) -> Latents:
        self.clean = self._denoiser(latents, sigma)
        return self.clean


def _start(
    job: Plan, stage: Stage, previous: Latents | None, kept: Conditions, noise_source: NoiseSource, models: Models,
    seed: int, number: int,
) -> Latents:  # fmt: skip
    """Where a stage begins."""
    config = models.base.config
    widths = config.video.in_channels, config.audio.in_channels
    fresh = noise_source(stage.geometry, *widths, seed, number)
    if kept.appended is not None and fresh.video is not None:
        beside = appended_noise(kept.appended.shape[-1], config.video.in_channels, seed, number)
        fresh = fresh._replace(video=mx.concatenate([fresh.video, beside], axis=1))
    fresh = Latents(fresh.video if models.base.with_video else None, fresh.audio)
    if models.streams:
        seeds = [take.seed_of(seed) for take, row in zip(job.takes, take_rows(job), strict=True) if row is not None]
        own = [fresh.audio if s == seed else noise_source(stage.geometry, *widths, s, number).audio for s in seeds]
        fresh = fresh._replace(adapted=mx.concatenate(own))
    return kept.begin(None if stage.start == "noise" else previous, fresh, float(stage.sigmas[0]))


def _decoded(job: Plan, networks: Networks, seed: int, latents: Latents, material: Material) -> Iterator[Decoded]:
    """The clip, or one for each take, which then share the picture: it is decoded once, when one is asked for.

    Of several machines the leading one has them; the others help it with the tiles of the picture.
    """
    if not job.split.world.leads:
        if job.split.tiles and latents.video is not None and job.settings.makes_picture:
            collections.deque(decode_video(networks, latents.video, job.geometry, job.split.world), maxlen=0)
        return
    together = job.split.world if job.split.tiles else ALONE
    sounds = [_sound(job, networks, tokens, material) for tokens in _sounds(job, latents)]
    made = latents.video if job.settings.makes_picture else None
    pictures: list[Iterator[np.ndarray] | None] = [None] * len(sounds)
    decoding = None if made is None else decode_video(networks, made, job.geometry, together)
    if decoding is not None:
        pictures = [*itertools.tee(decoding, len(sounds))]
    for number, (waveform, rate, seconds) in enumerate(sounds, 1):
        take = number if job.settings.takes else None
        yield Decoded(seed, pictures.pop(), waveform, rate, seconds, peak_memory(), take)  # kept by the caller alone
    if job.split.tiles and decoding is not None:
        collections.deque(decoding, maxlen=0)  # what nobody asked for, the others decode all the same


def _sounds(job: Plan, latents: Latents) -> list[mx.array]:
    """The tokens (1, T, C) of each sound that is to be heard."""
    if not job.takes:
        return [latents.sound]
    rows = take_rows(job)
    return [latents.audio if row is None else latents.sound[row : row + 1] for row in rows]


def _sound(job: Plan, networks: Networks, tokens: mx.array, material: Material) -> tuple[np.ndarray, int, float]:
    """A sound, decoded and mended, its rate, and the seconds it took; one that is given stays as it is."""
    clock = time.perf_counter()
    if not job.settings.makes_sound and material.sound is not None:
        rate: int = job.model.network_config("vocoder").output_rate
        return material.sound(rate)[: round(job.geometry.seconds * rate)], rate, time.perf_counter() - clock
    waveform, rate = decode_audio(networks, tokens)
    check_finite("The sound's samples", waveform)
    if job.settings.soften_onset:
        waveform = np.asarray(soften_onset(mx.array(waveform)[None], rate)[0])
    if job.settings.remove_offset:
        waveform = remove_offset(waveform, rate)
    return waveform, rate, time.perf_counter() - clock
