"""A request fitted to a model and a machine: a list of stages, every number known, nothing loaded yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_ltxw.adapter.formats import Adapter
from mlx_ltxw.adapter.source import Located
from mlx_ltxw.machine import Machine, late_tf32, slow_blas, this_machine
from mlx_ltxw.pipeline.adapters import Chosen, check_together, choose, choose_distilled
from mlx_ltxw.pipeline.budget import UNPLANNED, Budget
from mlx_ltxw.pipeline.geometry import Geometry, LatentGrid
from mlx_ltxw.pipeline.given_needs import Encoded
from mlx_ltxw.pipeline.guidance import passes
from mlx_ltxw.pipeline.keyframes import placed
from mlx_ltxw.pipeline.pace import Pace, key
from mlx_ltxw.pipeline.prompt_cache import default_folder
from mlx_ltxw.pipeline.recipes import Stage, check_built_in, default_pipeline, described, stages_of
from mlx_ltxw.pipeline.refusal import budget_for
from mlx_ltxw.pipeline.request import Request, Settings
from mlx_ltxw.pipeline.resolve import defaults_of, idle, resolve
from mlx_ltxw.pipeline.same_bits import tries
from mlx_ltxw.pipeline.samplers import res_2s
from mlx_ltxw.pipeline.spans import added
from mlx_ltxw.pipeline.split import TENSOR, TOKENS, WHOLE_RUN, Split
from mlx_ltxw.pipeline.takes import PlannedTake, planned_takes
from mlx_ltxw.pipeline.work import Work
from mlx_ltxw.prompts.lines import check_lines
from mlx_ltxw.weights.dtype import dtype_of
from mlx_ltxw.weights.model_dir import ModelDir


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        settings: Every choice made.
        model: Where the weights are.
        stages: One after another.
        dtype: Of weights and activations; fp16 is the transformer's alone (`Networks`).
        adapters: Read, and known to fit.
        machine: Its memory, and how much work it may be given at a time.
        budget: What each part of the run needs in memory, and how it is made to fit.
        resident: Whether the transformer stays in memory while a clip is decoded, for the next seed's.
        warnings: What will be tight or slow, and what the model cannot say.
        distilled: The distilled LoRA, read and known to fit, for the stages that have it.
        takes: The adapted sounds beside the picture; empty without the lock.
        voices: The adapters of the takes -> those read, and known to fit.
        split: What of it this machine computes, where several make one clip.
        reading: Bytes of the process while the largest given picture is read.
        cache: Whether contexts of prompts are read from disk, and kept there.
    """

    settings: Settings
    model: ModelDir
    stages: tuple[Stage, ...]
    dtype: mx.Dtype
    adapters: Chosen
    machine: Machine
    budget: Budget
    resident: bool
    warnings: tuple[str, ...]
    distilled: Chosen | None = None
    takes: tuple[PlannedTake, ...] = ()
    voices: Mapping[tuple[str, ...], Chosen] = field(default_factory=dict)
    split: Split = WHOLE_RUN
    cache: bool = True
    reading: int = 0

    def without_adapters(self) -> Plan:
        """The same run without its adapters; a distilled LoRA stays."""
        return dataclasses.replace(
            self,
            settings=dataclasses.replace(self.settings, adapters=(), register_at=None, takes=()),
            takes=(),
            adapters=dataclasses.replace(self.adapters, adapters=[], placements=(), summaries=(), located=()),
        )

    def is_the_base(self, take: PlannedTake) -> bool:
        """Whether a take is the sound that the picture reads; where a sound is made again, that is the given one."""
        return self.settings.revoice is None and take.is_base(self.settings.prompt)

    @property
    def recipe(self) -> str:
        """The pipeline and its stages, in words."""
        return f"{self.settings.pipeline}: {described(self.stages, self.settings.makes_sound)}"

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


def plan(
    request: Request, model: ModelDir, memory: int | None = None, previews: bool = False, reading: int = 0
) -> Plan:
    """Fits a request to a model.

    Args:
        request: What is wanted.
        model: What it is made with.
        memory: Bytes to plan for; None for what the machine has to give.
        previews: Whether steps are decoded on the way.
        reading: As `Plan` has it.

    Raises:
        UserError: the model cannot make that size, takes no such steps or guidance, an adapter does not fit, or the
            machine has too little memory.
    """
    check_built_in(request, model)
    request = dataclasses.replace(request, pipeline=request.pipeline or default_pipeline(request, model))
    settings = resolve(request, defaults_of(request, model), model.variant)
    geometry = Geometry(settings.width, settings.height, settings.frames, settings.frame_rate, latent_grid(model))
    stages = stages_of(settings, model, geometry)
    config = model.network_config("transformer")
    known: dict[Located, Adapter] = {}
    chosen, distilled = choose(settings, config, known), choose_distilled(settings, config)
    beside = bool(model.quantized_layers("transformer")) and not settings.fuse
    takes, voices = planned_takes(settings), {settings.adapters: chosen}
    for take in takes:
        if take.adapters not in voices:
            voices[take.adapters] = choose(dataclasses.replace(settings, adapters=take.adapters), config, known)
    for one in voices.values():
        check_together(one, distilled, beside)
    machine = this_machine().within(memory)
    dtype = dtype_of(settings.dtype)
    warnings = [*slow_blas(), *late_tf32(), *idle(settings)]
    if settings.dtype is None and dtype == mx.float16:
        warnings.append(_IN_FLOAT16)
    if model.lines:
        prompts = dict.fromkeys([settings.prompt, *(take.prompt for take in takes)])
        warnings += [str(hint) for prompt in prompts for hint in check_lines(prompt, model.lines)]
    notes = tuple(dict.fromkeys(warnings))
    draft = Plan(
        settings, model, stages, dtype, chosen, machine, UNPLANNED, False, notes, distilled, takes, voices,
        reading=reading,
    )  # fmt: skip
    budget = budget_for(dataclasses.replace(_work(draft), previews=previews), machine)
    job = dataclasses.replace(draft, budget=budget, resident=budget.decodes_beside)
    return dataclasses.replace(job, budget=dataclasses.replace(budget, seconds=_seconds(job)))


_IN_FLOAT16 = (
    "The transformer runs in float16: this chip has no units for bfloat16, and float16 rounds finer. "
    "{field:dtype=bfloat16} is the other way."
)


def pace_key(job: Plan, stage: Stage, split: tuple[str, int] | None = None) -> str:
    """What a stage's seconds are kept under (`Pace`), as the plan is split or in another way."""
    return key(_work(job), stage, job.budget, job.machine, split or (job.split.how, job.split.world.size))


def _seconds(job: Plan, split: tuple[str, int] | None = None) -> float | None:
    """Of denoising, as long as its like took here."""
    pace = Pace(default_folder())
    steps = [(stage.steps, pace.seconds(pace_key(job, stage, split), stage)) for stage in job.stages]
    if any(one is None for _, one in steps):
        return None
    return len(job.settings.seeds) * sum(count * (one or 0) for count, one in steps)


def split_over(job: Plan, how: str, machines: int) -> Plan:
    """The plan of each of several machines that make one clip: it needs less memory than all of it.

    Args:
        job: Of one machine.
        how: `passes`, `tokens` or `tensor`.
        machines: How many.

    Raises:
        UserError: its share does not fit.
    """
    tried = any(tries(stage.geometry.video_tokens, machines) for stage in job.stages)
    work = dataclasses.replace(
        _work(job),
        tokens=machines if how == TOKENS and not tried else 1,
        tensor=machines if how == TENSOR else 1,
    )
    budget = budget_for(work, job.machine)
    share = dataclasses.replace(job, budget=budget, resident=budget.decodes_beside)
    return dataclasses.replace(share, budget=dataclasses.replace(budget, seconds=_seconds(share, (how, machines))))


def _work(job: Plan) -> Work:
    """What the budget is made for."""
    settings = job.settings
    walks = sum(stage.steps * (2 if stage.sampler is res_2s else 1) for stage in job.stages)
    return Work(
        job.model, job.dtype, settings.audio_only, job.stages, job.prompts, [*job.voices.values()], job.distilled,
        settings.locked, settings.fuse, (len(job.takes) or 1) if settings.locked else 0,
        walks * len(settings.seeds), given=given_of(settings, job.geometry), makes_sound=settings.makes_sound,
        makes_picture=settings.makes_picture, reading=job.reading, timed=settings.register_at is not None,
        voices=len({take.adapters for take in job.takes if not job.is_the_base(take)}), clips=len(settings.seeds),
    )  # fmt: skip


def given_of(settings: Settings, geometry: Geometry) -> Encoded:
    """What a run's encoders read, of its settings alone."""
    changed = settings.revoice is not None or settings.retake is not None or settings.extend is not None
    frames = settings.frames if settings.video is not None else 0
    if frames and settings.extend is not None:
        frames -= added(settings.extend, settings.frame_rate, geometry.grid.frames) * geometry.grid.frames
    images = placed(settings.images, settings.frames)
    appended = sum(keyframe.frame != 0 for keyframe in images)
    return Encoded(frames, len(images), appended, settings.audio is not None or (bool(frames) and changed))


def latent_grid(model: ModelDir) -> LatentGrid:
    """Pixels and seconds of one latent token, from the configs of the two VAEs."""
    frames, height, width = model.network_config("video_vae").scale
    audio = model.network_config("audio_vae")
    return LatentGrid(frames, height, width, audio.hop / audio.sample_rate, audio.downscale)
