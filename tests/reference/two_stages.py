"""The official two-stage runs, fp32, with all noise given: every step of both stages.

Put together from ltx_core 1.0.0 and the res_2s loop of ltx_pipelines 1.0.0 in the order of 1.2.0's
`ti2vid_two_stages.py`, `ti2vid_two_stages_hq.py` and `distilled.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tests.reference import pipeline
from tests.reference.official import Official

from ltx_core.components.diffusion_steps import Res2sDiffusionStep
from ltx_core.components.schedulers import LTX2Scheduler
from ltx_core.model.transformer.model import X0Model
from ltx_core.model.upsampler.model import LatentUpsampler, upsample_video
from ltx_pipelines.utils.constants import STAGE_2_DISTILLED_SIGMA_VALUES
from ltx_pipelines.utils.samplers import res2s_audio_video_denoising_loop

Tokens = tuple[np.ndarray, np.ndarray]
Latents = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        official: The modules, with the LoRAs of this stage in their weights.
        job: Size and guidance.
        sigmas: Noise levels.
        noise: Starting noise, tokens of video and audio.
        drawn: For res_2s: the noise of each half and whole step.
        given: For video and audio, clean tokens and the denoising mask.
    """

    official: Official
    job: pipeline.Job
    sigmas: torch.Tensor
    noise: Tokens
    drawn: Sequence[Tokens] = ()
    given: tuple[Tokens, Tokens] | None = None


def second_sigmas() -> torch.Tensor:
    return torch.tensor(STAGE_2_DISTILLED_SIGMA_VALUES)


def hq_sigmas(official: Official, job: pipeline.Job) -> torch.Tensor:
    """The schedule by the first stage's own tokens."""
    tools, _ = pipeline.latent_tools(official, job)
    return LTX2Scheduler().execute(steps=job.steps, latent=torch.empty(tools.target_shape.to_torch_shape()))


def with_lora(official: Official, pairs: Mapping[str, Tokens], strength: float) -> Official:
    """The modules with `strength * B A` in the transformer's weights."""
    state = dict(official.state)
    for name, (a, b) in pairs.items():
        key = f"model.diffusion_model.{name}.weight"
        state[key] = state[key] + strength * torch.from_numpy(b) @ torch.from_numpy(a)
    return Official(official.config, state, official.contexts)


@torch.no_grad()
def run(
    gemma: Any, stages: tuple[Stage, Stage], upsampler: LatentUpsampler, hq: bool = False
) -> tuple[Latents, Latents]:
    """Latents after each step of the two stages; each stage's sound is its own."""
    first = denoise(gemma, stages[0], hq)
    small, audio = (torch.from_numpy(x) for x in first[-1])
    tools, _ = pipeline.latent_tools(stages[0].official, stages[0].job)
    state = replace(tools.create_initial_state("cpu", torch.float32), latent=small)
    large = upsample_video(tools.unpatchify(state).latent, stages[0].official.video_encoder, upsampler)
    begin = (tools.patchifier.patchify(large), audio)
    return first, denoise(gemma, stages[1], hq, begin)


def denoise(gemma: Any, stage: Stage, hq: bool, begin: Sequence[torch.Tensor] | None = None) -> Latents:
    """One stage, from noise or from clean tokens with noise at its first level."""
    official, job = stage.official, stage.job
    contexts = [pipeline.encode(official, gemma, prompt) for prompt in (job.prompt, job.negative_prompt)]
    states = [
        replace(tool.create_initial_state("cpu", torch.float32), latent=torch.from_numpy(noise))
        for tool, noise in zip(pipeline.latent_tools(official, job), stage.noise, strict=True)
    ]
    if begin is not None:
        states = [
            replace(state, latent=torch.lerp(clean, state.latent, stage.sigmas[0]))
            for state, clean in zip(states, begin, strict=True)
        ]
    if stage.given is not None:
        states = [pipeline.conditioned(state, *tokens) for state, tokens in zip(states, stage.given, strict=True)]
    model = X0Model(official.transformer)
    if hq:
        return _res_2s(stage, states, lambda states, sigma: pipeline.denoise(model, states, sigma, contexts, job))
    latents = []
    for index in range(len(stage.sigmas) - 1):
        clean = pipeline.denoise(model, states, stage.sigmas[index], contexts, job)
        states = [pipeline.advance(s, x, stage.sigmas, index) for s, x in zip(states, clean, strict=True)]
        latents.append(tuple(state.latent.numpy() for state in states))
    return latents


def _res_2s(stage: Stage, states: list, predict: Any) -> Latents:
    """The official loop, run for one step, two steps, ... so that every state is seen."""
    latents = []
    for count in range(1, len(stage.sigmas)):
        drawn = iter([torch.from_numpy(one).double() for pair in stage.drawn for one in pair])
        ends = res2s_audio_video_denoising_loop(
            stage.sigmas[: count + 1], *states, Res2sDiffusionStep(),
            lambda video_state, audio_state, sigmas, step_index: predict(
                [video_state, audio_state], sigmas[step_index].float()
            ),
            new_noise_fn=lambda *_, drawn=drawn: next(drawn), model_dtype=torch.float32,
        )  # fmt: skip
        latents.append(tuple(state.latent.numpy() for state in ends))
    return latents
