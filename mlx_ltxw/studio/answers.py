"""Questions that the helper answers: what a model is, what a run would need, what a made file holds."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
from mlx_ltxw.errors import UserError
from mlx_ltxw.hub import looks_like_repo
from mlx_ltxw.pipeline.guidance import passes
from mlx_ltxw.pipeline.plan import Plan, latent_grid
from mlx_ltxw.pipeline.recipes import default_pipeline
from mlx_ltxw.pipeline.request import ONE_STAGE, Request
from mlx_ltxw.pipeline.resolve import defaults_of, draw_seeds, draw_takes
from mlx_ltxw.studio.asked import Asked, asked_of_record
from mlx_ltxw.studio.folder import StudioFolder, plain_name
from mlx_ltxw.studio.spelled import command_of, python_of, script_of, shell_line
from mlx_ltxw.takes.make import fit
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.takes.record import local_files, read_record
from mlx_ltxw.takes.script import part_requests, plan_parts
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir

_SCALES = (0.5, 1.0, 1.5, 2.0)
_SHORT = "a dim room"


def answer(name: str, values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """Answers one question.

    Raises:
        UserError: what the user can mend.
    """
    if name in ELSEWHERE:
        module, _, function = ELSEWHERE[name].partition(":")
        found: dict[str, Any] = getattr(importlib.import_module(module), function)(values, folder)
        return found
    return ANSWERS[name](values, folder)


def about_model(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """What a model makes when nothing is said, which sizes it and this machine can make, and what it can say."""
    name, encoder = values.get("model"), values.get("text_encoder")
    model = _opened(name, encoder)
    defaults = defaults_of(Request(_SHORT), model)
    grid = latent_grid(model)
    return {
        "name": model.name, "notes": list(model.notes(audio_only=False)),
        "variant": model.variant, "width": defaults.width, "height": defaults.height,
        "frames": defaults.frames, "frame_rate": defaults.frame_rate, "steps": defaults.steps,
        "frames_step": grid.frames, "lines": list(model.lines), "sizes": list(_sizes(name, encoder)),
        "adapters": sorted(BUILTIN_ADAPTERS) if _is_built_in(model) else [], "upsamplers": list(model.upsamplers),
        "video_guidance": dataclasses.asdict(defaults.video_guidance),
        "audio_guidance": dataclasses.asdict(defaults.audio_guidance),
    }  # fmt: skip


def plan_asked(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """What a run would need; with the seeds drawn, so that a cut run goes on with them.

    `unknown` instead, with the reason, where something of it is not on this disk yet.
    """
    asked = Asked.read(values)
    try:
        model = _opened(asked.model, asked.text_encoder)
        jobs = _jobs(asked, model)
    except UserError as error:
        if not _needs_download(asked):
            raise
        return {"unknown": error.message, "asked": _drawn_unplanned(asked).as_dict()}
    largest = max(jobs, key=lambda job: job.budget.peak)
    notes = [note for job in jobs for note in job.warnings]
    return {
        "recipe": largest.recipe, "line": largest.budget.line, "peak": largest.budget.peak,
        "limit": largest.budget.limit, "parts": largest.budget.as_dict()["parts"],
        "notes": list(dict.fromkeys(notes)),
        "seconds": [job.geometry.seconds for job in jobs], "clips": sum(_clips(job) for job in jobs),
        "width": largest.settings.width, "height": largest.settings.height, "steps": largest.steps,
        "work": sum(map(_work, jobs)), "asked": _drawn(asked, jobs).as_dict(),
    }  # fmt: skip


def record_of(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """What makes a dropped file again, less the files of its maker's machine that it names; those are listed."""
    record = read_record(plain_name(folder.uploads, values["file"]))
    wanted: list[str] = []
    requests = []
    for request in record.requests:
        files = local_files(request)
        wanted += [name for names in files.values() for name in names]
        requests.append(_without(request, files))
    return {
        "kind": record.kind, "requests": [dataclasses.asdict(one) for one in requests],
        "model": str(record.model.get("name", "")), "wanted": list(dict.fromkeys(wanted)),
    }  # fmt: skip


def export_of(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """A kept take as a command line and as Python; of what cannot be said so, why."""
    asked = asked_of_record(values["record"], values.get("model"))
    model = _opened(asked.model, asked.text_encoder)
    output = values["output"]
    result: dict[str, Any] = {"script": script_of(asked) if asked.parts else ""}
    spellings: tuple[tuple[str, Callable[[], str]], ...] = (
        ("command", lambda: shell_line(command_of(asked, output, defaults_of(asked.request, model)))),
        ("python", lambda: python_of(asked, output)),
    )
    for name, spell in spellings:
        try:
            result[name] = spell()
        except UserError as error:
            result[name] = ""
            result[f"{name}_refused"] = str(error)
    return result


ANSWERS: dict[str, Callable[[dict[str, Any], StudioFolder], dict[str, Any]]] = {
    "model": about_model, "plan": plan_asked, "record": record_of, "export": export_of,
}  # fmt: skip
"""Name -> what answers it. They read headers; none computes."""

ELSEWHERE = {
    "find_shown": "mlx_ltxw.studio.heard:find",
    "find_waveform": "mlx_ltxw.studio.heard:find_waveform",
    "compare_pictures": "mlx_ltxw.studio.heard:compare",
    "check_clips": "mlx_ltxw.studio.clips:check_clips",
    "save_caption": "mlx_ltxw.studio.clips:save_caption",
    "read_caption": "mlx_ltxw.studio.clips:read_caption",
    "folders": "mlx_ltxw.studio.clips:folders_below",
    "check_new_run": "mlx_ltxw.studio.run_state:check_new",
    "run": "mlx_ltxw.studio.run_state:about_run",
}
"""Name -> module and function of what answers it, loaded when it is first asked."""


@functools.lru_cache(maxsize=4)
def _opened(name: str | None, text_encoder: str | None) -> ModelDir:
    return open_model(name, text_encoder)


@functools.lru_cache(maxsize=4)
def _sizes(name: str | None, text_encoder: str | None) -> tuple[tuple[int, int], ...]:
    """Sizes around the model's own that fit the machine, smallest first."""
    model = _opened(name, text_encoder)
    request = Request(_SHORT)
    defaults, grid = defaults_of(request, model), latent_grid(model)
    double = 1 if default_pipeline(request, model) == ONE_STAGE else 2
    shapes = dict.fromkeys(
        (_multiple(width * scale, grid.width * double), _multiple(height * scale, grid.height * double))
        for scale in _SCALES
        for width, height in _shapes(defaults.width, defaults.height)
    )
    able = [shape for shape in shapes if _can_make(model, *shape)]
    able.sort(key=lambda shape: (shape[0] * shape[1], shape[0]))
    return tuple(able)


def _shapes(width: int, height: int) -> Iterator[tuple[float, float]]:
    """The model's own, upright, and square, of the same number of pixels."""
    yield width, height
    yield height, width
    side = math.sqrt(width * height)
    yield side, side


def _multiple(length: float, step: int) -> int:
    return max(1, round(length / step)) * step


def _can_make(model: ModelDir, width: int, height: int) -> bool:
    try:
        fit(Request(_SHORT, width=width, height=height), model)
    except UserError:
        return False
    return True


def _is_built_in(model: ModelDir) -> bool:
    return Path(model.path) == BUILTIN_MODEL


def _jobs(asked: Asked, model: ModelDir) -> list[Plan]:
    if not asked.parts:
        return [fit(asked.request, model, asked.memory)]
    parts = [part.part for part in asked.parts]
    return plan_parts(part_requests(parts, asked.request, model), model, asked.memory)


def _drawn(asked: Asked, jobs: list[Plan]) -> Asked:
    """The same with every seed that was left to chance."""
    if not asked.parts:
        settings = jobs[0].settings
        request = dataclasses.replace(asked.request, seeds=settings.seeds, takes=settings.takes)
        return dataclasses.replace(asked, request=request)
    parts = [
        part if part.seed is None else dataclasses.replace(part, seed=job.settings.seeds[0])
        for part, job in zip(asked.parts, jobs, strict=True)
    ]
    shared = next((job.settings.seeds for part, job in zip(parts, jobs, strict=True) if part.seed is None), (0,))
    return dataclasses.replace(asked, parts=tuple(parts), request=dataclasses.replace(asked.request, seeds=shared))


def _drawn_unplanned(asked: Asked) -> Asked:
    """As `_drawn`, of what cannot be planned yet."""
    parts = tuple(
        part if part.seed is None else dataclasses.replace(part, seed=draw_seeds((part.seed,))[0])
        for part in asked.parts
    )
    request = dataclasses.replace(
        asked.request, seeds=draw_seeds(asked.request.seeds), takes=draw_takes(asked.request.takes)
    )
    return dataclasses.replace(asked, parts=parts, request=request)


def _clips(job: Plan) -> int:
    return len(job.settings.seeds) * (len(job.settings.takes) or 1)


def _work(job: Plan) -> float:
    """Tokens that all forwards compute, which a run's time follows."""
    sounds = 1 + (len(job.takes) or 1) * job.settings.locked
    total = 0.0
    for stage in job.stages:
        geometry = stage.geometry
        video = 0 if job.settings.audio_only else geometry.video_tokens
        forwards = stage.steps * len(passes(stage.video_guidance, stage.audio_guidance, 0))
        total += forwards * (video + sounds * geometry.audio_tokens)
    return total * len(job.settings.seeds)


def _needs_download(asked: Asked) -> bool:
    """Whether something of it is on the Hub."""
    lora = asked.request.distilled_lora
    names = [asked.model, asked.text_encoder, (lora.rpartition(":")[0] or lora) if lora else None]
    specs = [*asked.request.adapters, *(spec for part in asked.parts for spec in part.adapters or ())]
    names += [spec.rpartition(":")[0] or spec for spec in specs]
    return any(name is not None and looks_like_repo(name) and not os.path.exists(name) for name in names)


def _without(request: Request, files: dict[str, list[str]]) -> Request:
    gone: dict[str, Any] = {name: None for name in ("video", "audio", "distilled_lora") if files[name]}
    kept = tuple(one for one in request.adapters if one not in files["adapters"])
    takes = () if any(one in take for one in files["adapters"] for take in request.takes) else request.takes
    return dataclasses.replace(request, adapters=kept, images=(), takes=takes, **gone)
