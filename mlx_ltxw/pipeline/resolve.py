"""What a request leaves open is filled in from the model's own defaults, and what no model can make is refused."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.parsing import build
from mlx_ltxw.pipeline.given_checks import check_given
from mlx_ltxw.pipeline.guidance import (
    HQ_AUDIO,
    HQ_VIDEO,
    NO_GUIDANCE,
)
from mlx_ltxw.pipeline.recipes import check_recipe, default_pipeline, fixed_steps
from mlx_ltxw.pipeline.request import DTYPES, HQ, ONE_STAGE, RANDOM, SEED, SEEDS, Defaults, Request, Settings
from mlx_ltxw.pipeline.schedule import DISTILLED_SIGMAS
from mlx_ltxw.prompts.intervals import parse_intervals
from mlx_ltxw.prompts.takes import read_take
from mlx_ltxw.weights.model_dir import ModelDir

DISTILLED_STEPS = len(DISTILLED_SIGMAS) - 1
HQ_STEPS, HQ_SIZE = 15, (1920, 1088)
MOST = {"width": 1 << 14, "height": 1 << 14, "frames": 1 << 16, "steps": 1000, "frame_rate": 240}
"""What no machine can make more of."""
_MOST_SEEDS = 10_000


def defaults_for(
    variant: str, generation: dict[str, Any] | None, pipeline: str = ONE_STAGE, lora: str | None = None
) -> Defaults:
    """The defaults of a model and recipe.

    Args:
        variant: `dev` or `distilled`.
        generation: The model dir's own, for one stage; a second one makes twice the size of them.
        pipeline: The recipe.
        lora: The distilled LoRA, if there is one.
    """
    own = generation or {}
    defaults = build(Defaults, own, "The model's own defaults", "Convert the model again.")
    if pipeline != ONE_STAGE:
        defaults = dataclasses.replace(defaults, width=defaults.width * 2, height=defaults.height * 2)
    if pipeline == HQ:
        width, height = (defaults.width, defaults.height) if {"width", "height"} & own.keys() else HQ_SIZE
        defaults = dataclasses.replace(
            defaults, width=width, height=height, steps=HQ_STEPS, video_guidance=HQ_VIDEO, audio_guidance=HQ_AUDIO
        )
    if fixed_steps(variant, pipeline, lora):
        return dataclasses.replace(
            defaults, steps=DISTILLED_STEPS, video_guidance=NO_GUIDANCE, audio_guidance=NO_GUIDANCE
        )
    return defaults


def defaults_of(request: Request, model: ModelDir) -> Defaults:
    """The defaults of what a request leaves open, and of its recipe."""
    pipeline = request.pipeline or default_pipeline(request, model)
    return defaults_for(model.variant, model.generation, pipeline, request.distilled_lora)


def resolve(request: Request, defaults: Defaults, variant: str) -> Settings:
    """The request with the model's defaults where it says nothing.

    Raises:
        UserError: the steps or guidance do not suit the model, or there is nothing to make.
    """
    if not request.prompt.strip():
        raise UserError("The prompt is empty.", "Say what is seen and said.")
    if not request.seeds:
        raise UserError("There is no seed.", "Give at least one.")
    values = {name: value for name, value in vars(request).items() if value is not None}
    settings = Settings(
        **{**vars(defaults), **values, "seeds": draw_seeds(request.seeds), "takes": draw_takes(request.takes)}
    )
    _check_numbers(settings)
    check_recipe(settings, variant)
    if fixed_steps(variant, settings.pipeline, settings.distilled_lora):
        _check_distilled(settings, variant)
    _check_adapters(settings)
    check_given(settings)
    return settings


class Drawn(int):
    """A seed that was drawn because any would do; a run that goes on has the one that was drawn when it began."""


def draw_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds, each `RANDOM` among them replaced by one of the system's own, a `Drawn`.

    Raises:
        UserError: one is negative, has over 64 bits, or is there twice.
    """
    if len(seeds) > _MOST_SEEDS:
        raise UserError(f"{len(seeds)} seeds are too many for one run.", f"Give up to {_MOST_SEEDS}.")
    for seed in seeds:
        if not RANDOM <= seed < SEEDS:
            raise UserError(f"{seed} is no seed.", f"Give a whole number from 0 to 2^64 - 1, or {RANDOM} for any.")
    drawn = tuple(Drawn(secrets.randbelow(1 << 32)) if seed == RANDOM else seed for seed in seeds)
    (seed, count), *_ = Counter(drawn).most_common(1) or [(0, 0)]
    if count > 1:
        raise UserError(f"The seed {seed} is there {count} times.", "Give each seed once.")
    return drawn


def following_seeds(count: int, first: int = SEED) -> tuple[int, ...]:
    """So many seeds, from one on.

    Raises:
        UserError: `first` is no seed, or there are not so many.
    """
    (first,) = draw_seeds((first,))
    if not 1 <= count <= min(_MOST_SEEDS, SEEDS - first):
        raise UserError(f"{count} clips cannot be made from the seed {first} on.", f"Ask for 1 to {_MOST_SEEDS}.")
    return tuple(map(Drawn if isinstance(first, Drawn) else int, range(first, first + count)))


def any_seeds(request: Request) -> bool:
    """Whether a seed of the request, or of its takes, was left to chance."""
    takes = (read_take(one).seed for one in request.takes)
    return RANDOM in (*request.seeds, *takes) or any(isinstance(seed, Drawn) for seed in request.seeds)


def drawn_before(request: Request, seeds: Sequence[int], takes: Sequence[str] = ()) -> Request | None:
    """The request with what an earlier run of it drew.

    Args:
        request: Some of its seeds may be any; those that `following_seeds` drew follow one another.
        seeds, takes: Of that run's settings.

    Returns:
        None where that run asked for other seeds.
    """
    wanted = [read_take(one) for one in request.takes]
    if len(request.seeds) != len(seeds) or (RANDOM in (one.seed for one in wanted) and len(wanted) != len(takes)):
        return None
    pairs = list(zip(request.seeds, seeds, strict=True))
    apart = {then - now for now, then in pairs if isinstance(now, Drawn)}
    if len(apart) > 1 or not all(isinstance(now, Drawn) or now in (RANDOM, then) for now, then in pairs):
        return None
    again = tuple(now if now == then else Drawn(then) for now, then in pairs)
    drawn = tuple(
        str(dataclasses.replace(one, seed=read_take(takes[number]).seed))
        if one.seed == RANDOM
        else request.takes[number]
        for number, one in enumerate(wanted)
    )
    return dataclasses.replace(request, seeds=again, takes=drawn)


def draw_takes(takes: tuple[str, ...]) -> tuple[str, ...]:
    """The takes in one spelling, with a seed of the system's own where any will do."""
    read = [read_take(one) for one in takes]
    return tuple(
        str(one if one.seed is None else dataclasses.replace(one, seed=draw_seeds((one.seed,))[0])) for one in read
    )


def _check_numbers(settings: Settings) -> None:
    """Refuses what no machine can make, before anything is allocated for it."""
    if settings.dtype not in (None, *DTYPES):
        raise UserError(f"There is no dtype '{settings.dtype}'.", f"Give one of {', '.join(DTYPES)}.")
    if settings.steps < 1:
        raise UserError(f"{settings.steps} denoising steps make nothing.", "Ask for at least 1.")
    for name, most in MOST.items():
        value = getattr(settings, name)
        if not value <= most:
            raise UserError(f"{name} is {value}, which is beyond any model.", f"Give {{field:{name}}} up to {most}.")
    for field, guidance in (("video", settings.video_guidance), ("audio", settings.audio_guidance)):
        for name in ("cfg", "stg", "modality", "rescale"):
            if not math.isfinite(getattr(guidance, name)):
                raise UserError(f"The {field} guidance's {name} is no finite number.", "Give a number.")
        if not 0 <= guidance.rescale <= 1:
            raise UserError(f"The {field} guidance's rescale is {guidance.rescale:g}.", "Give one from 0 to 1.")


def _check_distilled(settings: Settings, variant: str) -> None:
    what, instead = "A distilled model", "use the dev model"
    if variant != "distilled":
        what, instead = "The dev model with the distilled LoRA", "leave {field:distilled_lora} out"
    if settings.steps != DISTILLED_STEPS:
        raise UserError(
            f"{what} takes exactly {DISTILLED_STEPS} steps, not {settings.steps}.",
            f"Leave {{field:steps}} out, or {instead}.",
        )
    if settings.video_guidance != NO_GUIDANCE or settings.audio_guidance != NO_GUIDANCE:
        raise UserError(f"{what} takes no guidance.", f"Leave the guidance options out, or {instead}.")


def idle(settings: Settings) -> list[str]:
    """A note of what was asked of adapters in a run that has none."""
    if settings.adapters or settings.takes:
        return []
    asked = {
        "fuse": settings.fuse,
        "allow_partial": settings.allow_partial and settings.distilled_lora is None,
        "lock_video=False": not settings.lock_video,
    }
    return [f"{{field:{name}}} does nothing in a run without adapters." for name, given in asked.items() if given]


def _check_adapters(settings: Settings) -> None:
    if settings.register_at is not None and not settings.adapters and not settings.takes:
        raise UserError("{field:register_at} has no adapter to act on.", "Add {field:adapters}.")
    if settings.register_at is not None:
        parse_intervals(settings.register_at)
    if settings.register_at is not None and settings.fuse:
        raise UserError(
            "A fused adapter cannot change its strength in time.", "Leave {field:fuse} or {field:register_at} out."
        )
