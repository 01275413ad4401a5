"""A request to finished files: the run's events, and each clip written as soon as it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path

from mlx_ltxw.files import locked_folder
from mlx_ltxw.machine import peak_memory
from mlx_ltxw.pipeline.events import Decoded, Event
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan, latent_grid, plan
from mlx_ltxw.pipeline.point import NOTHING_DONE, DoneBefore
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.resolve import any_seeds, defaults_of
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.takes.audition import write_takes
from mlx_ltxw.takes.compose import composed, finished, measured, new_sound, span_notes
from mlx_ltxw.takes.events import Decoding, Note, Suspect, TakeEvent, Written
from mlx_ltxw.takes.given import fit_to_given, material_of, notes_of, reading_of
from mlx_ltxw.takes.output import Output
from mlx_ltxw.takes.preview import with_previews
from mlx_ltxw.takes.record import clip_record
from mlx_ltxw.takes.unfinished import Unfinished, as_it_began, files_of, lock_beside, written_before
from mlx_ltxw.takes.write import write_files
from mlx_ltxw.weights.model_dir import ModelDir

Left = Callable[[Plan, Output, Networks, DoneBefore], Generator[TakeEvent, None, None]]
"""Makes the clips of a run that are not done yet."""

Writer = Callable[[Decoded, Plan], Iterator[Decoding | Suspect]]
"""Writes one clip, telling how far its frames are."""


def fit(request: Request, model: ModelDir, memory: int | None = None, previews: bool = False) -> Plan:
    """Plans a request; sizes left open come from what the clip is given, if anything.

    Args:
        request, model, memory, previews: As for `pipeline.plan.plan`.

    Raises:
        UserError: a file cannot be read, or the model cannot make what is asked for.
    """
    given = request.images or request.video is not None or request.audio is not None
    if not given:
        return plan(request, model, memory, previews)
    request = fit_to_given(request, defaults_of(request, model), latent_grid(model))
    job = plan(request, model, memory, previews, reading_of(request))
    return dataclasses.replace(job, warnings=(*job.warnings, *notes_of(job), *span_notes(job)))


def fit_again(request: Request, model: ModelDir, output: Output, memory: int | None = None) -> Plan:
    """As `fit`; a request that takes any seeds gets those of its own run that was cut, which then goes on.

    Args:
        request, model, memory: As for `fit`.
        output: Where that run was going to.
    """
    fresh = fit(request, model, memory, bool(output.preview))
    if output.resume and any_seeds(request) and (again := as_it_began(request, output.path)) is not None:
        job = fit(again, model, memory, bool(output.preview))
        if Unfinished(output.path, job).progress != NOTHING_DONE:
            return job
    return fresh


def follow(
    job: Plan, networks: Networks | None = None, progress: DoneBefore = NOTHING_DONE
) -> Generator[Event, None, None]:
    """The run of a plan with what it is given, which each clip keeps as it was; closing it ends the run.

    Args:
        job: From `fit`.
        networks: Of its model and dtype; None loads what is needed for this run alone.
        progress: What an earlier run of the same job has done.
    """
    material = material_of(job)
    with closing(run(job, networks, material=material, progress=progress)) as events:
        for event in events:
            yield composed(event, job, material) if isinstance(event, Decoded) else event


def make(
    job: Plan, output: Output, networks: Networks | None = None, left: Left | None = None
) -> Generator[TakeEvent, None, None]:
    """Makes every clip of a run and writes it when it is done; one that was cut goes on where it was.

    Closing the iterator ends the run; the files written so far stay, the last step is kept for the next run
    (`takes/unfinished.py`), and nothing half-written does.

    Args:
        job: From `fit`.
        output: Its files.
        networks: See `follow`.
        left: Makes what is not done yet; by default `clips_left`, one after another.

    Raises:
        UserError: a file cannot be written, or is there and may not be replaced; or another process is making it.
    """
    begun(job, output)
    return _held(job, output, networks or Networks(job.model, job.dtype), left or clips_left)


def _held(job: Plan, output: Output, networks: Networks, left: Left) -> Generator[TakeEvent, None, None]:
    """A run, while which no other one makes the same output: one would replace what the other made."""
    with locked_folder(output.path, "run", lock_beside(output.path)):
        unfinished = begun(job, output)  # as it is now that nobody else is at it
        events = unfinished.following(_made(job, output, networks, unfinished.progress, left))
        with closing(with_previews(events, job, output, networks) if output.preview else events) as events:
            yield from events


def begun(job: Plan, output: Output) -> Unfinished:
    """What an earlier run of the same job has left.

    Raises:
        UserError: the output cannot be written.
    """
    unfinished = Unfinished(output.path, job, output.resume, bool(output.preview))
    own = set(unfinished.own)
    for seed in job.settings.seeds:
        if seed in unfinished.progress.done or seed in unfinished.progress.points:
            clips = files_of(job, output, seed)
            found = written_before(clips)
            own |= found
            if found != {path for names, _ in clips for path in names}:
                unfinished.without(seed)
    output.check(job.settings, own)
    return unfinished


def _made(
    job: Plan, output: Output, networks: Networks, progress: DoneBefore, left: Left
) -> Generator[TakeEvent, None, None]:
    for seed in job.settings.seeds:
        if seed in progress.done:
            yield Note(f"seed {seed} is written already")
            yield Written(seed, tuple(path for names, _ in files_of(job, output, seed) for path in names), None, 0)
    yield from left(job, output, networks, progress)


def clips_left(job: Plan, output: Output, networks: Networks, progress: DoneBefore) -> Generator[TakeEvent, None, None]:
    """Makes and writes the clips of a run that are not done yet, one after another."""
    if job.settings.takes:
        return write_takes(job, output, follow(job, networks, progress))

    def write(clip: Decoded, job: Plan) -> Iterator[Decoding | Suspect]:
        return write_files(output.names(job.settings, clip.seed), clip, job.settings, clip_record(job, clip.seed))

    return written(job, write, lambda seed: tuple(output.names(job.settings, seed)), networks, progress=progress)


def written(
    job: Plan, write: Writer, files: Callable[[int], tuple[Path, ...]] = lambda _: (), networks: Networks | None = None,
    finish: Callable[[Decoded, Plan], Decoded] = finished, progress: DoneBefore = NOTHING_DONE,
) -> Generator[TakeEvent, None, None]:  # fmt: skip
    """The events of a run, each clip's `Decoded` replaced by what `write` tells and `Written`.

    Args:
        job: From `fit`.
        write: Writes a clip.
        files: Names of a seed's clip, for `Written`.
        networks: See `follow`.
        finish: What is done to a clip before it is measured and written.
        progress: See `follow`.
    """
    with closing(follow(job, networks, progress)) as events:
        for event in events:
            if isinstance(event, Decoded):
                clip = finish(event, job)
                yield from write(clip, job)
                yield Written(clip.seed, files(clip.seed), measured(clip, job), peak_memory(), span=new_sound(job))
            else:
                yield event
