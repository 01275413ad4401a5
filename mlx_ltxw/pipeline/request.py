"""What one run makes: the Request, its defaults by model, and its JSON form in the output's metadata."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections import Counter
from dataclasses import dataclass
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.parsing import build
from mlx_ltxw.pipeline.given_checks import check_given
from mlx_ltxw.pipeline.guidance import (
    DEFAULT_NEGATIVE_PROMPT,
    DEV_AUDIO,
    DEV_VIDEO,
    HQ_AUDIO,
    HQ_VIDEO,
    NO_GUIDANCE,
    Guidance,
)
from mlx_ltxw.pipeline.recipes import HQ, ONE_STAGE, check_recipe, default_pipeline, fixed_steps
from mlx_ltxw.pipeline.schedule import DISTILLED_SIGMAS
from mlx_ltxw.prompts.takes import read_take
from mlx_ltxw.weights.model_dir import ModelDir

DISTILLED_STEPS = len(DISTILLED_SIGMAS) - 1
HQ_STEPS, HQ_SIZE = 15, (1920, 1088)
RANDOM = -1
"""Stands for any seed; the one that is drawn is in the settings."""
SEED = 10
DTYPES = ("bfloat16", "float16", "float32")
SEEDS = 1 << 64
_MOST = {"width": 1 << 14, "height": 1 << 14, "frames": 1 << 16, "steps": 1000, "frame_rate": 1000}
_MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Request:
    """One run. A field left at None takes the model's default when the run is resolved.

    Attributes:
        prompt: What is seen and said.
        negative_prompt: What guidance steers away from.
        seeds: One clip each: 0 to 2^64 - 1, or -1 for any.
        width, height: Pixels.
        frames: Video frames; also sets the length of audio without a picture.
        frame_rate: Frames a second.
        steps: Denoising steps, of the first stage where there are two.
        pipeline: `one-stage`, `two-stage` or `hq` (`mlx_ltxw.pipeline.recipes`).
        upsampler: Between two stages: `spatial-x2` or `spatial-x1.5`.
        distilled_lora: `FILE|REPO[:STRENGTH]`, LTX-2.3's own: for a second stage of the dev model, or to make all of
            it fast in one stage; `hq` takes two strengths, `FILE:0.25/0.5`.
        video_guidance, audio_guidance: Steering of each modality.
        audio_only: Make sound alone; nothing of the video side is loaded.
        adapters: `FILE|REPO|NAME[:STRENGTH]`, all at once.
        lock_video: Keep the picture exactly that of a run without adapters.
        fuse: Fuse adapters into quantised weights too.
        allow_partial: Leave out what of an adapter has no place.
        register_at: The adapter's strength in time, such as `0-2=whispering,2-4=normal`.
        video: A clip whose picture is kept and given a new voice; with `retake` or `extend`, the clip they change.
        images: `FILE[@FRAME][:STRENGTH]`: pictures that the clip goes through, by default at frame 0.
        audio: A sound that is kept, and that a picture is made to.
        revoice: Make the sound of `audio` or `video` again in the prompt's register, from noise of this strength: over
            0, where it stays as it is, to 1, where nothing of it is left.
        retake: The stretch of `video` that is made anew, in seconds: `1.2-2.4`.
        retake_what: `picture`, `sound` or `both`.
        extend: Seconds that `video` is made longer; before its beginning where negative.
        soften_onset: Take down a click at the sound's very start, which the official decoder has too.
        remove_offset: Take out what lies below 20 Hz, such as a constant offset.
        takes: Several sounds on the one picture, such as `manner=soft seed=3` (`mlx_ltxw.prompts.takes`).
        dtype: Of the transformer: `bfloat16`, `float16` or `float32`; None is this machine's own.
    """

    prompt: str
    negative_prompt: str | None = None
    seeds: tuple[int, ...] = (SEED,)
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    frame_rate: float | None = None
    steps: int | None = None
    pipeline: str | None = None
    upsampler: str | None = None
    distilled_lora: str | None = None
    video_guidance: Guidance | None = None
    audio_guidance: Guidance | None = None
    audio_only: bool = False
    adapters: tuple[str, ...] = ()
    lock_video: bool = True
    fuse: bool = False
    allow_partial: bool = False
    register_at: str | None = None
    video: str | None = None
    images: tuple[str, ...] = ()
    audio: str | None = None
    revoice: float | None = None
    retake: str | None = None
    retake_what: str = "both"
    extend: float | None = None
    soften_onset: bool = True
    remove_offset: bool = True
    takes: tuple[str, ...] = ()
    dtype: str | None = None

    def __post_init__(self) -> None:
        for name, kind in (("seeds", int), ("adapters", str), ("images", str), ("takes", str)):
            value = getattr(self, name)
            if not isinstance(value, tuple | list) or not all(isinstance(item, kind) for item in value):
                raise UserError(f"{{field:{name}}} is {value!r}.", "Give a tuple, also of a single one.")
            object.__setattr__(self, name, tuple(value))
        for name in ("video", "audio", "distilled_lora"):
            if (file := getattr(self, name)) is not None:
                object.__setattr__(self, name, str(file))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Request:
        """The request that a file's metadata holds (`Settings.to_dict`, and what names its maker).

        Raises:
            UserError: it is no request, or has fields this version does not know.
        """
        makers = ("kind", "mlx_ltxw", "model", "adapter_sha256")
        request = {name: value for name, value in values.items() if name not in makers}
        return build(cls, request, "The stored request", "Use a file that this version of mlx-ltxw generate wrote.")


@dataclass(frozen=True)
class Defaults:
    """A model's own defaults; a model dir's `config.json` may set its own under `generation`.

    Source of the values here: `ltx_pipelines/utils/constants.py:LTX_2_3_PARAMS`.
    """

    width: int = 768
    height: int = 512
    frames: int = 121
    frame_rate: float = 24.0
    steps: int = 30
    negative_prompt: str = DEFAULT_NEGATIVE_PROMPT
    video_guidance: Guidance = DEV_VIDEO
    audio_guidance: Guidance = DEV_AUDIO


@dataclass(frozen=True)
class Settings:
    """A request with every field set; what the output's metadata keeps. Fields as in `Request`."""

    prompt: str
    negative_prompt: str
    seeds: tuple[int, ...]
    width: int
    height: int
    frames: int
    frame_rate: float
    steps: int
    video_guidance: Guidance
    audio_guidance: Guidance
    audio_only: bool
    adapters: tuple[str, ...]
    lock_video: bool
    fuse: bool
    allow_partial: bool
    register_at: str | None = None
    video: str | None = None
    images: tuple[str, ...] = ()
    audio: str | None = None
    revoice: float | None = None
    retake: str | None = None
    retake_what: str = "both"
    extend: float | None = None
    soften_onset: bool = True
    remove_offset: bool = True
    takes: tuple[str, ...] = ()
    pipeline: str = ONE_STAGE
    upsampler: str | None = None
    distilled_lora: str | None = None
    dtype: str | None = None

    @property
    def makes_picture(self) -> bool:
        """Whether a picture, or a stretch of one, is made, and not only given."""
        if self.audio_only:
            return False
        changed = self.extend is not None or (self.retake is not None and self.retake_what != "sound")
        return self.video is None or changed

    @property
    def makes_sound(self) -> bool:
        """Whether a sound, or a stretch of one, is made, and not only given."""
        if self.audio is not None and self.revoice is None:
            return False
        return self.retake is None or self.retake_what != "picture"

    @property
    def guidance(self) -> tuple[Guidance | None, Guidance]:
        """Of the video, unless the clip has none, and of the audio. What is only given is not steered."""
        audio = self.audio_guidance if self.makes_sound else NO_GUIDANCE
        if self.audio_only:
            return None, audio
        return self.video_guidance if self.makes_picture else NO_GUIDANCE, audio

    @property
    def locked(self) -> bool:
        """Whether adapters act in audio streams of their own; a given picture, or none, needs no lock but for takes."""
        needed = bool(self.takes) or (bool(self.adapters) and self.makes_picture)
        return needed and self.lock_video and not self.audio_only

    def to_dict(self, seed: int | None = None) -> dict[str, Any]:
        """As JSON takes it; with a seed, the settings that make that one clip again."""
        one = self if seed is None else dataclasses.replace(self, seeds=(seed,))
        return dataclasses.asdict(one)


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
        **{**vars(defaults), **values, "seeds": draw_seeds(request.seeds), "takes": _drawn(request.takes)}
    )
    _check_numbers(settings)
    check_recipe(settings, variant)
    if fixed_steps(variant, settings.pipeline, settings.distilled_lora):
        _check_distilled(settings, variant)
    _check_adapters(settings)
    check_given(settings)
    return settings


def draw_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds, each `RANDOM` among them replaced by one of the system's own.

    Raises:
        UserError: one is negative, has over 64 bits, or is there twice.
    """
    if len(seeds) > _MOST_SEEDS:
        raise UserError(f"{len(seeds)} seeds are too many for one run.", f"Give up to {_MOST_SEEDS}.")
    for seed in seeds:
        if not RANDOM <= seed < SEEDS:
            raise UserError(f"{seed} is no seed.", f"Give a whole number from 0 to 2^64 - 1, or {RANDOM} for any.")
    drawn = tuple(secrets.randbelow(1 << 32) if seed == RANDOM else seed for seed in seeds)
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
    return tuple(range(first, first + count))


def _drawn(takes: tuple[str, ...]) -> tuple[str, ...]:
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
    for name, most in _MOST.items():
        value = getattr(settings, name)
        if not value <= most:
            raise UserError(f"{name} is {value}, which is beyond any model.", f"Give {{field:{name}}} up to {most}.")
    for field, guidance in (("video", settings.video_guidance), ("audio", settings.audio_guidance)):
        for name in ("cfg", "stg", "modality", "rescale"):
            if not math.isfinite(getattr(guidance, name)):
                raise UserError(f"The {field} guidance's {name} is no finite number.", "Give a number.")


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


def _check_adapters(settings: Settings) -> None:
    if settings.register_at is not None and not settings.adapters and not settings.takes:
        raise UserError("{field:register_at} has no adapter to act on.", "Add {field:adapters}.")
    if settings.register_at is not None and settings.fuse:
        raise UserError(
            "A fused adapter cannot change its strength in time.", "Leave {field:fuse} or {field:register_at} out."
        )
