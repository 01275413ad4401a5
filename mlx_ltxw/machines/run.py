"""Runs of several machines: what each of them does from the request to the last file."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import platform
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_ltxw import __version__
from mlx_ltxw.errors import UserError
from mlx_ltxw.links import log
from mlx_ltxw.machines.clips import Foreman, work
from mlx_ltxw.machines.cost import Estimate
from mlx_ltxw.machines.crew import Crew
from mlx_ltxw.pipeline.guidance import passes
from mlx_ltxw.pipeline.latents import Latents
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan, split_over
from mlx_ltxw.pipeline.point import DoneBefore, ResumePoint
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.pipeline.split import CLIPS, PASSES, TENSOR, TOKENS, WHOLE, Split
from mlx_ltxw.takes.events import Note, TakeEvent
from mlx_ltxw.takes.given import material_of
from mlx_ltxw.takes.make import begun, clips_left, fit, make
from mlx_ltxw.takes.output import Output
from mlx_ltxw.takes.record import adapter_hashes, given_hashes
from mlx_ltxw.takes.script import make_part, part_file
from mlx_ltxw.takes.unfinished import file_beside
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import RESIDENT

AUTO = "auto"


def agreed_plans(
    crew: Crew, lead: Callable[[], Sequence[Plan]], model: ModelDir, memory: int | None, cache: bool = True
) -> list[Plan]:  # fmt: skip
    """The plans of a run, which the leading machine makes, and the others again from its settings.

    Args:
        crew: The machines.
        lead: Makes the plans; called on the leading machine alone.
        model: This machine's.
        memory: As for `fit`.
        cache: See `Plan`.

    Raises:
        UserError: a machine cannot make them, or has other versions, another model or other files; names it.
    """
    if crew.leads:
        jobs = [dataclasses.replace(job, cache=cache) for job in lead()]
        crew.share([job.settings.to_dict() for job in jobs])
        crew.agree(facts_of(jobs))
        return jobs
    settings = crew.share()
    try:
        jobs = [dataclasses.replace(fit(Request.from_dict(one), model, memory), cache=cache) for one in settings]
        facts = facts_of(jobs)
    except UserError as error:
        jobs, facts = [], {"error": f"{error.message} {error.hint}"}
    crew.agree(facts)
    return jobs


def facts_of(jobs: Sequence[Plan]) -> dict[str, Any]:
    """What the machines of a run must have alike."""
    asked = [
        [job.settings.to_dict(), given_hashes(job), sorted(adapter_hashes(job).items()), str(job.dtype)]
        for job in jobs
    ]  # fmt: skip
    first = jobs[0]
    return {
        "version of mlx-ltxw": __version__,
        "version of MLX": version("mlx"),
        "kind of machine": f"{first.machine.backend} {platform.machine()}",
        "model": first.model.digest[:16],
        "request": hashlib.sha256(json.dumps(asked, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:16],
    }


def choose_split(asked: str, jobs: Sequence[Plan], machines: int, found: Mapping[str, Estimate]) -> str:
    """How a run is split.

    Args:
        asked: `auto`, or one of `SPLITS`.
        jobs: Its plans.
        machines: How many.
        found: What a step takes in every way (`cost.estimates`); the fastest is chosen, unless weights do not fit.

    Raises:
        UserError: it cannot be split so.
    """
    first = jobs[0]
    layers = first.model.network_config("transformer").layers
    most = max(len(passes(stage.video_guidance, stage.audio_guidance, layers)) for stage in first.stages)
    clips = sum(len(job.settings.seeds) for job in jobs)
    if asked == AUTO:
        if clips > 1:
            return CLIPS
        if TENSOR in found and first.budget.residency is not RESIDENT and _fits_shared(first, machines):
            return TENSOR
        return min((WHOLE, PASSES, TOKENS), key=lambda how: found[how].seconds if how in found else math.inf)
    if asked == PASSES and most == 1:
        raise UserError(
            "Each step of this run is one pass, which cannot be split.",
            "Give {field:split=tokens}, or guidance ({field:video_cfg}, {field:audio_cfg}).",
        )
    if asked in (TOKENS, TENSOR) and first.settings.audio_only:
        raise UserError("Sound alone is too small to be split.", "Give {field:split=clips}, or several seeds.")
    if asked == TOKENS and min(stage.geometry.video_tokens for stage in first.stages) < machines:
        raise UserError("The clip has fewer tokens than there are machines.", "Make it larger, or start fewer.")
    return asked


def _fits_shared(job: Plan, machines: int) -> bool:
    """Whether all blocks stay in memory when each machine has its share of them."""
    heads = job.model.network_config("transformer").video.heads
    if machines > heads:
        return False
    try:
        return split_over(job, TENSOR, machines).budget.residency is RESIDENT
    except UserError:
        return False


# One clip by all


def made_together(
    crew: Crew, job: Plan, output: Output, how: str, networks: Networks | None = None
) -> Iterator[TakeEvent]:  # fmt: skip
    """The leading machine's side of a clip that all make: as `make`.

    Args:
        crew: The machines.
        job: From `agreed_plans`.
        output: Its files.
        how: From `choose_split`.
        networks: As for `make`.
    """
    tiles = _tiles(job, output)
    progress = begun(job, output).progress
    crew.share({"tiles": tiles, "done": sorted(progress.done), "points": [*map(_said, progress.points.items())]})
    kept = file_beside(output.path)
    crew.kept = lambda: (
        f"{kept} keeps the steps that are done, and the same command goes on from there, with as many machines as "
        "there are then."
        if kept.exists()
        else "Give the same command again, with the machines that are left."
    )
    yield from make(shared_job(crew, job, how, tiles), output, networks)


def help_together(crew: Crew, job: Plan, how: str) -> None:
    """The other machines' side."""
    said = crew.share()
    progress = DoneBefore(dict(map(_point, said["points"])), frozenset(said["done"]))
    ours = shared_job(crew, job, how, said["tiles"])
    for event in run(ours, Networks(ours.model, ours.dtype), material=material_of(ours), progress=progress):
        log(f"{type(event).__name__} {getattr(event, 'seed', '')} {getattr(event, 'index', '')}")


def shared_job(crew: Crew, job: Plan, how: str, tiles: bool) -> Plan:
    """The plan with this machine's part of it."""
    if how == WHOLE:
        return job
    return dataclasses.replace(
        split_over(job, how, crew.world.size), split=Split.of(how, crew.world, tiles)
    )  # fmt: skip


def _tiles(job: Plan, output: Output) -> bool:
    """Whether there is a picture to decode, whose tiles all machines can share."""
    return output.path.suffix.lower() == ".mp4" and job.settings.makes_picture


def _said(item: tuple[int, ResumePoint]) -> dict[str, Any]:
    """A point as JSON has it."""
    seed, point = item
    sounds = point.sounds or (None, None, None)
    return {"seed": seed, "index": point.index, "latents": [*map(_packed, point.latents)],
            "sounds": [*map(_packed, sounds)] if point.sounds else None}  # fmt: skip


def _point(said: dict[str, Any]) -> tuple[int, ResumePoint]:
    def latents(arrays: list[Any]) -> Latents:
        video, audio, adapted = map(_unpacked, arrays)
        assert audio is not None
        return Latents(video, audio, adapted)

    sounds = None if said["sounds"] is None else latents(said["sounds"])
    return said["seed"], ResumePoint(said["index"], latents(said["latents"]), sounds)


def _packed(array: mx.array | None) -> Any:
    if array is None:
        return None
    return {"shape": array.shape, "bytes": base64.b64encode(np.asarray(array).tobytes()).decode()}


def _unpacked(said: Any) -> mx.array | None:
    if said is None:
        return None
    return mx.array(np.frombuffer(base64.b64decode(said["bytes"]), np.float32).reshape(said["shape"]))


# Many clips


def clips_shared_out(
    crew: Crew, job: Plan, output: Output, networks: Networks | None = None
) -> Iterator[TakeEvent]:  # fmt: skip
    """The leading machine's side of many clips: as `make`."""

    def left(job: Plan, output: Output, networks: Networks, progress: DoneBefore) -> Generator[TakeEvent, None, None]:
        seeds = job.settings.seeds
        pieces = [number for number, seed in enumerate(seeds) if seed not in progress.done]
        pieces.sort(key=lambda number: seeds[number] not in progress.points)  # what is begun here is ended here
        foreman = Foreman(crew, pieces, lambda number: f"seed {seeds[number]}", output.path.parent)
        yield Note(f"{len(pieces)} clips are shared out among {crew.world.size} machines")
        yield from foreman.events(
            lambda number, _: clips_left(job, output, networks, only(job, seeds[number], progress))
        )  # fmt: skip

    return make(job, output, networks or _kept_networks(job), left)


def help_clips(crew: Crew, job: Plan, output: Output) -> None:
    """The other machines' side."""
    networks, seeds = _kept_networks(job), job.settings.seeds
    work(
        crew,
        lambda number, folder: clips_left(
            job, _into(output, folder), networks, only(job, seeds[number], DoneBefore())
        ),
    )  # fmt: skip


def parts_shared_out(
    crew: Crew, jobs: Sequence[Plan], resume: bool, left: Sequence[tuple[int, Path]]
) -> Generator[TakeEvent, None, None]:
    """The leading machine's side of a script's parts (`make_script`).

    Args:
        crew: The machines.
        jobs: From `plan_parts`.
        resume: Whether a part that was cut here goes on.
        left: Numbers of the parts that are to be made, and their files.
    """
    paths = dict(left)
    if not paths:
        return
    foreman = Foreman(crew, list(paths), lambda number: f"part {number + 1}", next(iter(paths.values())).parent)
    yield from foreman.events(lambda number, _: make_part(jobs[number], paths[number], resume))


def help_parts(crew: Crew, jobs: Sequence[Plan]) -> None:
    """The other machines' side."""
    work(
        crew, lambda number, folder: make_part(jobs[number], part_file(folder, number + 1, jobs[number]), False)
    )  # fmt: skip


def only(job: Plan, seed: int, progress: DoneBefore) -> DoneBefore:
    """Progress of a run of which one seed alone is to be made."""
    point = progress.points.get(seed)
    return DoneBefore({} if point is None else {seed: point}, frozenset(job.settings.seeds) - {seed})


def _kept_networks(job: Plan) -> Networks:
    """Networks that stay from clip to clip, where there is room for them."""
    consumed = job.distilled is not None or (job.settings.adapters and not job.settings.locked)
    return Networks(job.model, job.dtype, keep=job.resident and not consumed)


def _into(output: Output, folder: Path) -> Output:
    return dataclasses.replace(output, path=folder / output.path.name)
