"""A request fitted to a model and a machine: a list of stages, every number known, nothing loaded yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import mlx.core as mx
import numpy as np

from mlx_ltxw.machine import Machine, slow_blas, this_machine
from mlx_ltxw.pipeline.adapters import Chosen, choose
from mlx_ltxw.pipeline.geometry import Geometry, LatentGrid
from mlx_ltxw.pipeline.guidance import Guidance, passes
from mlx_ltxw.pipeline.request import Request, Settings, defaults_for, resolve
from mlx_ltxw.pipeline.samplers import Sampler, euler
from mlx_ltxw.pipeline.schedule import DISTILLED_SIGMAS, ltx2_sigmas
from mlx_ltxw.pipeline.takes import PlannedTake, planned_takes
from mlx_ltxw.prompts.lines import check_lines
from mlx_ltxw.weights.dtype import default_dtype
from mlx_ltxw.weights.memory import check_fit, weights_in_memory
from mlx_ltxw.weights.model_dir import ModelDir

_DECODING = 4 << 30
"""Bytes set aside for the decoders and their activations beside a transformer that stays in memory."""


@dataclass(frozen=True)
class Stage:
    """One way from noise to clean latents.

    Attributes:
        geometry: Pixels, frames and rate that the latents stand for.
        sigmas: (steps + 1,) fp32 noise levels.
        sampler: How the steps are taken.
        video_guidance: How the video is steered; None without one.
        audio_guidance: How the audio is steered.
        start: `noise`, or the clean latents of the stage before, with noise at the first of `sigmas`.
    """

    geometry: Geometry
    sigmas: np.ndarray
    sampler: Sampler
    video_guidance: Guidance | None
    audio_guidance: Guidance
    start: Literal["noise", "previous"] = "noise"

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        settings: Every choice made.
        model: Where the weights are.
        stages: One after another.
        dtype: bf16 or fp32, of weights and activations.
        adapters: Read, and known to fit.
        machine: Its memory, and how much work it may be given at a time.
        resident: Whether the transformer stays in memory while a clip is decoded, for the next seed's.
        warnings: What will be tight or slow, and what the model cannot say.
        takes: The adapted sounds beside the picture; empty without the lock.
        voices: The adapters of the takes -> those read, and known to fit.
    """

    settings: Settings
    model: ModelDir
    stages: tuple[Stage, ...]
    dtype: mx.Dtype
    adapters: Chosen
    machine: Machine
    resident: bool
    warnings: tuple[str, ...]
    takes: tuple[PlannedTake, ...] = ()
    voices: Mapping[tuple[str, ...], Chosen] = field(default_factory=dict)

    @property
    def geometry(self) -> Geometry:
        """Of the finished clip."""
        return self.stages[-1].geometry

    @property
    def steps(self) -> int:
        """Denoising steps in all."""
        return sum(stage.steps for stage in self.stages)

    @property
    def prompts(self) -> list[str]:
        """The prompt, the negative prompt where a stage's guidance needs it, and what else takes say."""
        negative = any(
            one.negative
            for stage in self.stages
            for one in passes(stage.video_guidance, stage.audio_guidance, layers=0)
        )
        prompts = [self.settings.prompt, self.settings.negative_prompt] if negative else [self.settings.prompt]
        return prompts + [one for one in dict.fromkeys(take.prompt for take in self.takes) if one not in prompts]


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
    stages = (Stage(geometry, sigmas, euler, *settings.guidance),)
    takes, config = planned_takes(settings), model.network_config("transformer")
    chosen = choose(settings, config)
    voices = {settings.adapters: chosen}
    for take in takes:
        if take.adapters not in voices:
            voices[take.adapters] = choose(dataclasses.replace(settings, adapters=take.adapters), config)
    machine = this_machine()
    weights = weights_in_memory(model, audio_only=settings.audio_only)
    warnings = [*check_fit(weights, machine), *slow_blas()]
    if model.lines:
        prompts = dict.fromkeys([settings.prompt, *(take.prompt for take in takes)])
        warnings += [str(hint) for prompt in prompts for hint in check_lines(prompt, model.lines)]
    resident = weights["transformer"] + _DECODING <= machine.budget
    notes = tuple(dict.fromkeys(warnings))
    return Plan(settings, model, stages, default_dtype(), chosen, machine, resident, notes, takes, voices)


def latent_grid(model: ModelDir) -> LatentGrid:
    """Pixels and seconds of one latent token, from the configs of the two VAEs."""
    frames, height, width = model.network_config("video_vae").scale
    audio = model.network_config("audio_vae")
    return LatentGrid(frames, height, width, audio.hop / audio.sample_rate, audio.downscale)
