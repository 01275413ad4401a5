"""A request to clips, stage by stage; each stage's weights are gone before the next one loads.

Source of the order: `ltx_pipelines/ti2vid_one_stage.py`, `t2a_one_stage.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_ltxw.machine import Machine, peak_memory, settle, this_machine
from mlx_ltxw.models.audio_vae import soften_onset
from mlx_ltxw.models.video_vae import Tiling, decode_tiled
from mlx_ltxw.pipeline.adapters import Chosen, apply, choose
from mlx_ltxw.pipeline.conditioning import Contexts, encode_prompts
from mlx_ltxw.pipeline.denoise import Denoiser, Latents, denoise, noise, rotaries
from mlx_ltxw.pipeline.events import Adapted, Conditioned, Decoded, Event, Step
from mlx_ltxw.pipeline.geometry import Geometry, LatentGrid
from mlx_ltxw.pipeline.guidance import passes
from mlx_ltxw.pipeline.request import Request, Settings, defaults_for, resolve
from mlx_ltxw.pipeline.schedule import DISTILLED_SIGMAS, ltx2_sigmas
from mlx_ltxw.weights.dtype import default_dtype
from mlx_ltxw.weights.memory import check_fit, weights_in_memory
from mlx_ltxw.weights.model_dir import ModelDir

NoiseSource = Callable[[Geometry, int, int, int], Latents]


@dataclass(frozen=True)
class Plan:
    """A request fitted to a model and a machine: every number known, nothing loaded yet.

    Attributes:
        settings: Every choice made.
        model: Where the weights are.
        geometry: Of the clip.
        sigmas: (steps + 1,) fp32 noise levels.
        dtype: Of the networks.
        adapters: Read, and known to fit.
        machine: Its memory, and how much work it may be given at a time.
        warnings: What will be tight.
    """

    settings: Settings
    model: ModelDir
    geometry: Geometry
    sigmas: np.ndarray
    dtype: mx.Dtype
    adapters: Chosen
    machine: Machine
    warnings: tuple[str, ...]


def plan(request: Request, model: ModelDir) -> Plan:
    """Fits a request to a model.

    Raises:
        UserError: the model cannot make that size, takes no such steps or guidance, an adapter does not fit, or the
            machine has too little memory.
    """
    settings = resolve(request, defaults_for(model.variant, model.generation), model.variant)
    geometry = Geometry(settings.width, settings.height, settings.frames, settings.frame_rate, latent_grid(model))
    geometry.check()
    sigmas = np.array(DISTILLED_SIGMAS, np.float32) if model.variant == "distilled" else ltx2_sigmas(settings.steps)
    chosen = choose(settings, model.network_config("transformer"))
    machine = this_machine()
    warnings = check_fit(weights_in_memory(model, audio_only=settings.audio_only), machine)
    return Plan(settings, model, geometry, sigmas, default_dtype(), chosen, machine, tuple(warnings))


def latent_grid(model: ModelDir) -> LatentGrid:
    """Pixels and seconds of one latent token, from the configs of the two VAEs."""
    frames, height, width = model.network_config("video_vae").scale
    audio = model.network_config("audio_vae")
    return LatentGrid(frames, height, width, audio.hop / audio.sample_rate, audio.downscale)


def run(job: Plan, noise_source: NoiseSource = noise, picture: np.ndarray | None = None) -> Iterator[Event]:
    """Makes one clip a seed.

    Args:
        job: From `plan`.
        noise_source: `(geometry, video channels, audio channels, seed) -> Latents`, the starting noise.
        picture: (F, H, W, 3) uint8 frames of the job's size, to be kept and given a voice; None makes one.

    Yields:
        Conditioned; Adapted, if there are adapters; Step after Step of every seed; then Decoded for every seed.
    """
    began = time.perf_counter()
    settle()
    mx.set_cache_limit(job.machine.cache_limit)
    contexts = encode_prompts(job.model, _prompts(job), job.dtype, job.machine.in_pieces)
    yield Conditioned(time.perf_counter() - began, peak_memory())
    given = None if picture is None else encode_video(job, picture)
    finished: dict[int, Latents] = {}
    for event in _denoise(job, contexts, noise_source, given):
        if isinstance(event, Step):
            finished[event.seed] = event.latents
        yield event
    mx.clear_cache()
    yield from _decode(job, finished)


def _prompts(job: Plan) -> list[str]:
    settings = job.settings
    needs_negative = any(run.negative for run in passes(*settings.guidance, layers=0))
    return [settings.prompt, settings.negative_prompt] if needs_negative else [settings.prompt]


def _denoise(
    job: Plan, contexts: Contexts, noise_source: NoiseSource, given: mx.array | None
) -> Iterator[Adapted | Step]:
    settings = job.settings
    transformer = job.model.load("transformer", job.dtype, audio_only=settings.audio_only)
    config = transformer.config
    transformer.submit_every = int(job.machine.in_pieces)
    models = apply(transformer, job.adapters, settings, job.geometry, job.dtype)
    if models.notes:
        yield Adapted(models.notes)
    rotary = rotaries(transformer, job.geometry, job.dtype)
    denoiser = Denoiser(
        models.base, models.adapted, contexts, *settings.guidance, *rotary, job.dtype, frozen_video=given is not None
    )
    del transformer
    for seed in settings.seeds:
        start = noise_source(job.geometry, config.video.in_channels, config.audio.in_channels, seed)
        video = None if settings.audio_only else start.video if given is None else given
        noisy = Latents(video, start.audio, start.audio if models.adapted else None)
        clock = time.perf_counter()
        for index, latents in enumerate(denoise(denoiser, noisy, job.sigmas)):
            now = time.perf_counter()
            sigma = float(job.sigmas[index])
            yield Step(seed, index + 1, len(job.sigmas) - 1, sigma, now - clock, peak_memory(), latents)
            clock = time.perf_counter()


def _decode(job: Plan, finished: dict[int, Latents]) -> Iterator[Decoded]:
    for seed, latents in finished.items():
        clock = time.perf_counter()
        waveform, rate = decode_audio(job.model, latents.heard, job.dtype, job.machine.in_pieces)
        if job.settings.soften_onset:
            waveform = np.asarray(soften_onset(mx.array(waveform)[None], rate)[0])
        seconds = time.perf_counter() - clock
        made = latents.video if job.settings.video is None else None
        video = None if made is None else decode_video(job, made)
        yield Decoded(seed, video, waveform, rate, seconds, peak_memory())


def encode_video(job: Plan, picture: np.ndarray) -> mx.array:
    """Frames (F, H, W, 3) uint8 to clean video tokens (1, T, C) fp32."""
    vae = job.model.load("video_vae", job.dtype)
    pixels = mx.array(picture)[None].astype(mx.float32) / 127.5 - 1
    latent = vae.encode(pixels.astype(job.dtype), job.machine.in_pieces).astype(mx.float32)
    tokens = latent.reshape(1, -1, latent.shape[-1])
    mx.eval(tokens)
    del vae
    mx.clear_cache()
    return tokens


def decode_audio(model: ModelDir, tokens: mx.array, dtype: mx.Dtype, in_pieces: bool = False) -> tuple[np.ndarray, int]:
    """Audio tokens to sound.

    Args:
        model: Holds the audio VAE and the vocoder.
        tokens: (1, T, C).
        dtype: Of the mel's decoder; the vocoder is fp32 in any case.
        in_pieces: See `Machine.in_pieces`.

    Returns:
        A waveform (N, 2) fp32 and its rate.
    """
    vae = model.load("audio_vae", dtype)
    mel = vae.decode(tokens.astype(dtype)).astype(mx.float32)
    mx.eval(mel)
    del vae
    vocoder = model.load("vocoder")
    waveform = vocoder(mel, in_pieces)
    mx.eval(waveform)
    rate = vocoder.output_rate
    del vocoder
    mx.clear_cache()
    return np.asarray(waveform[0]), rate


def decode_video(job: Plan, tokens: mx.array) -> Iterator[np.ndarray]:
    """Video tokens (1, T, C) to chunks of frames (f, H, W, 3) uint8."""
    vae = job.model.load("video_vae", job.dtype)
    latent = tokens.reshape(1, *job.geometry.latent_shape, -1).astype(job.dtype)
    for chunk in decode_tiled(vae, latent, Tiling(), job.machine.in_pieces):
        pixels = mx.clip((chunk.astype(mx.float32) + 1) * 127.5, 0, 255)
        yield np.asarray(mx.round(pixels).astype(mx.uint8))
