"""The official recipes: which stages a clip is made in, at which size, with which noise levels, sampler and guidance.

Source: `ltx_pipelines/ti2vid_one_stage.py`, `ti2vid_two_stages.py`, `ti2vid_two_stages_hq.py`, `distilled.py` (1.2.0).
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from mlx_ltxw.adapter.strength import Strength, parse_strength
from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.guidance import NO_GUIDANCE, Guidance
from mlx_ltxw.pipeline.request import HQ, ONE_STAGE, PIPELINES, TWO_STAGE, Request, Settings
from mlx_ltxw.pipeline.samplers import Sampler, euler, res_2s
from mlx_ltxw.pipeline.schedule import DISTILLED_SIGMAS, SECOND_STAGE_SIGMAS, ltx2_sigmas
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.components import upsampler_name
from mlx_ltxw.weights.model_dir import ModelDir

UPSAMPLER = "spatial-x2"
"""What the official pipelines put between two stages."""
UPSAMPLERS = (UPSAMPLER, "spatial-x1.5")

_STRENGTHS = {ONE_STAGE: ("1",), TWO_STAGE: ("1",), HQ: ("0.25", "0.5")}
"""Of the distilled LoRA, in each stage that has it."""


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
        upsampler: What makes the video of the stage before as large as this one's; None where it is so already.
        distilled: How strongly the distilled LoRA acts in this stage; None for not at all.
        finishes_sound: Whether its sound is the clip's. Otherwise that of the stage before is, and its own, which the
            picture still reads, ends here.
    """

    geometry: Geometry
    sigmas: np.ndarray
    sampler: Sampler
    video_guidance: Guidance | None
    audio_guidance: Guidance
    start: Literal["noise", "previous"] = "noise"
    upsampler: str | None = None
    distilled: Strength | None = None
    finishes_sound: bool = True

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1


def default_pipeline(request: Request, model: ModelDir) -> str:
    """The official one for the model: two stages for a distilled model that has an upsampler, else one.

    What makes no new picture (sound alone, a given clip) is made in one.
    """
    two = model.variant == "distilled" and UPSAMPLER in model.upsamplers
    return TWO_STAGE if two and not request.audio_only and request.video is None else ONE_STAGE


def distilled_lora(text: str, pipeline: str) -> tuple[str, tuple[Strength, ...]]:
    """Reads `FILE|REPO[:STRENGTH]`, for `hq` `FILE|REPO[:STRENGTH/STRENGTH]`, one a stage.

    Returns:
        The file or repo, and the strength in each stage that has it.

    Raises:
        UserError: no strength, or not as many as the recipe has.
    """
    wanted = _STRENGTHS[pipeline]
    source = lora_source(text)
    if source == text:
        return text, tuple(map(parse_strength, wanted))
    strengths = text[len(source) + 1 :].split("/")
    if len(strengths) != len(wanted):
        raise UserError(
            f"The recipe {pipeline} takes {len(wanted)} strength{'s' * (len(wanted) > 1)} of the distilled LoRA, not "
            f"{len(strengths)}.",
            f"Write FILE:{'/'.join(wanted)}, or leave them out.",
        )
    return source, tuple(map(parse_strength, strengths))


def lora_source(text: str) -> str:
    """The file or repo of `FILE|REPO[:STRENGTH]`; as `adapter.strength.parse_adapter`, whatever the strength is."""
    source, colon, given = text.rpartition(":")
    return text if not colon or given[:1] in ("/", "\\") or os.path.exists(text) else source


def stages_of(settings: Settings, model: ModelDir, geometry: Geometry) -> tuple[Stage, ...]:
    """The stages of a run.

    Args:
        settings: Resolved.
        model: Whose variant and upsamplers count.
        geometry: Of the finished clip.

    Raises:
        UserError: a recipe that the model has not all for, or a size that it cannot make.
    """
    strengths: tuple[Strength, ...] = ()
    if settings.distilled_lora is not None:
        _, strengths = distilled_lora(settings.distilled_lora, settings.pipeline)
    fast = np.array(DISTILLED_SIGMAS, np.float32)
    if settings.pipeline == ONE_STAGE:
        geometry.check()
        quick = model.variant == "distilled" or bool(strengths)
        sigmas = fast if quick else ltx2_sigmas(settings.steps)
        return (Stage(geometry, sigmas, euler, *settings.guidance, distilled=strengths[0] if strengths else None),)
    small = smaller(geometry, settings.upsampler or UPSAMPLER, model)
    hq, distilled = settings.pipeline == HQ, model.variant == "distilled"
    if hq:
        sigmas = ltx2_sigmas(settings.steps, small.video_tokens)
    else:
        sigmas = fast if distilled else ltx2_sigmas(settings.steps)
    sampler = res_2s if hq else euler
    first = Stage(small, sigmas, sampler, *settings.guidance, distilled=strengths[0] if hq else None)
    second = Stage(
        geometry, np.array(SECOND_STAGE_SIGMAS, np.float32), sampler, NO_GUIDANCE, NO_GUIDANCE, "previous",
        settings.upsampler or UPSAMPLER, strengths[-1] if strengths else None, finishes_sound=distilled,
    )  # fmt: skip
    return first, second


def smaller(geometry: Geometry, upsampler: str, model: ModelDir) -> Geometry:
    """The first stage's size.

    Raises:
        UserError: the model has no such upsampler, or the size is none that one makes of whole latents.
    """
    space: Fraction = model.network_config(upsampler_name(upsampler)).space
    grid, (up, down) = geometry.grid, space.as_integer_ratio()
    steps = {"width": grid.width * up, "height": grid.height * up}
    wrong = [f"{name} {getattr(geometry, name)}" for name, step in steps.items() if getattr(geometry, name) % step]
    if wrong:
        raise UserError(
            f"Two stages cannot make {' and '.join(wrong)}.",
            f"With the upsampler {upsampler} width is a multiple of {steps['width']} and height of {steps['height']}; "
            "or give {field:pipeline=one-stage}.",
        )
    geometry.check()
    one = dataclasses.replace(geometry, width=geometry.width * down // up, height=geometry.height * down // up)
    one.check()
    return one


def check_built_in(request: Request, model: ModelDir) -> None:
    """Refuses recipes for which nobody publishes what the built-in model would need.

    Raises:
        UserError: two stages, or a distilled LoRA, of the model that ships with the package.
    """
    if model.path != BUILTIN_MODEL:
        return
    stages = request.pipeline not in (None, ONE_STAGE)
    for field, given in (
        ("pipeline", stages),
        ("upsampler", request.upsampler),
        ("distilled_lora", request.distilled_lora),
    ):
        if given:
            raise UserError(
                "The built-in model makes clips in one stage: there is no upsampler and no distilled LoRA for it.",
                f"Leave {{field:{field}}} out, or use LTX-2.3 with {{field:model}}.",
            )


def check_recipe(settings: Settings, variant: str) -> None:
    """Refuses what a recipe cannot take, whatever the model directory holds.

    Raises:
        UserError: says what does not go together.
    """
    pipeline, lora = settings.pipeline, settings.distilled_lora
    if pipeline not in PIPELINES:
        raise UserError(f"There is no pipeline '{pipeline}'.", f"Choose from {', '.join(PIPELINES)}.")
    if settings.upsampler is not None and settings.upsampler not in UPSAMPLERS:
        why = ""
        if settings.upsampler.startswith("temporal"):
            why = " The official recipe that doubles frames is for LTX-2.5 alone."
        raise UserError(
            f"No pipeline uses the upsampler '{settings.upsampler}'.{why}", f"Choose from {', '.join(UPSAMPLERS)}."
        )
    if lora is not None and variant == "distilled":
        raise UserError("The model is distilled already.", "Leave {field:distilled_lora} out, or use the dev model.")
    if lora is not None:
        distilled_lora(lora, pipeline)
    if pipeline == ONE_STAGE:
        if settings.upsampler is not None:
            raise UserError(
                "One stage has nothing to upsample.", "Add {field:pipeline=two-stage}, or leave {field:upsampler} out."
            )
        return
    for name in ("audio_only", "video"):
        if getattr(settings, name):
            raise UserError(
                f"Two stages make a whole new picture, which {{field:{name}}} does not.",
                f"Leave {{field:{name}}} out, or give {{field:pipeline=one-stage}}.",
            )
    if pipeline == HQ and variant == "distilled":
        raise UserError(
            "The hq recipe is for the dev model, and this one is distilled.", "Give {field:pipeline=two-stage}."
        )
    if variant == "dev" and lora is None:
        raise UserError(
            f"The {pipeline} recipe of the dev model needs the distilled LoRA.",
            "Add {field:distilled_lora=FILE}, such as "
            "Lightricks/LTX-2.3/ltx-2.3-22b-distilled-lora-384-1.1.safetensors, or give {field:pipeline=one-stage}.",
        )


def fixed_steps(variant: str, pipeline: str, lora: str | None) -> bool:
    """Whether a recipe's first or only stage takes the distilled model's own steps and no guidance."""
    return variant == "distilled" or (pipeline == ONE_STAGE and lora is not None)


def described(stages: tuple[Stage, ...], makes_sound: bool = True) -> str:
    """`768x512 in 8 steps; spatial-x2; 1536x1024 in 3 steps; the sound is the second stage's`."""
    parts = []
    for stage in stages:
        parts += [stage.upsampler] if stage.upsampler else []
        size = "sound alone" if stage.video_guidance is None else f"{stage.geometry.width}x{stage.geometry.height}"
        steps = f"{stage.steps} step{'s' * (stage.steps != 1)}{' of res_2s' if stage.sampler is res_2s else ''}"
        parts.append(f"{size} in {steps}{f', distilled LoRA at {stage.distilled}' if stage.distilled else ''}")
    text = "; ".join(parts)
    if len(stages) > 1 and makes_sound:
        text += f"; the sound is the {'second' if stages[-1].finishes_sound else 'first'} stage's"
    return text
