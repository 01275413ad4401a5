"""`generate` on several machines, each of which `mlx.launch` started with the same command."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mlx_ltxw.errors import UserError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mlx_ltxw.cli.show import Show
    from mlx_ltxw.machines.crew import Crew
    from mlx_ltxw.pipeline.plan import Plan
    from mlx_ltxw.pipeline.request import Request
    from mlx_ltxw.takes.output import Output
    from mlx_ltxw.weights.model_dir import ModelDir


@dataclass(frozen=True)
class JointRun:
    """What the command asks of all machines.

    Attributes:
        split: `auto`, or one of `mlx_ltxw.pipeline.split.SPLITS`.
        memory: Bytes that each may use.
        cache: Whether contexts of prompts are kept on disk.
        plan_only: Whether nothing is made.
        scripted: Whether the plans are a script's parts; known on the leading machine.
        keep, again: As for `make_script`.
    """

    split: str
    memory: int | None
    cache: bool
    plan_only: bool
    scripted: bool = False
    keep: bool = False
    again: tuple[int, ...] = ()


def machines(split: str | None, timeout: float | None) -> AbstractContextManager[Crew | None]:
    """The machines of this run; None where there is only this one.

    Raises:
        UserError: options that one machine has no use for, or the machines do not find each other.
    """
    from mlx_ltxw.links import TIMEOUT
    from mlx_ltxw.world import World

    if World.launched():
        from mlx_ltxw.machines.crew import joined, meeting

        seconds = TIMEOUT if timeout is None else timeout
        world = joined(seconds)
        if world.size > 1:
            return meeting(world, seconds)
    if split is not None or timeout is not None:
        raise UserError(
            "{field:split} and {field:link_timeout} are for several machines, and there is one.",
            "Start them with `mlx.launch -n 2 mlx-ltxw generate ...` (docs/machines.md), or leave them out.",
        )
    return nullcontext()


def check_single(
    scripted: bool, parts: tuple[int, ...], keep: bool, preview: int | None, drift: bool, crew: Crew | None
) -> None:
    """Refuses what only a script, only one clip, or only one machine has."""
    if not scripted and (parts or keep):
        raise UserError("{field:parts} and {field:keep_parts} are a script's.", "Add {field:script}.")
    if scripted and preview:
        raise UserError("{field:preview} shows one clip.", "Leave it out with a script.")
    if scripted and drift:
        raise UserError("{field:show_drift} compares one clip.", "Leave it out with a script.")
    if crew is not None and drift:
        raise UserError("{field:show_drift} compares on one machine.", "Leave it out with several.")


def lead(
    crew: Crew, asked: JointRun, requests: Sequence[Request], model: ModelDir, files: Output, show: Show
) -> None:  # fmt: skip
    """The leading machine's side, to the last file.

    Args:
        crew: The machines.
        asked: By the command.
        requests: What is to be made: one, or a script's parts.
        model: Makes the clips.
        files: Where they go.
        show: Tells of them.
    """
    from mlx_ltxw.machines import cost, run
    from mlx_ltxw.pipeline.split import CLIPS, WHOLE
    from mlx_ltxw.takes.make import begun, fit_again, make
    from mlx_ltxw.takes.script import check_parts, make_script, plan_parts

    def plans() -> list[Plan]:
        if asked.scripted:
            return plan_parts(requests, model, asked.memory, files)
        return [fit_again(requests[0], model, files, asked.memory)]

    jobs = run.agreed_plans(crew, plans, model, asked.memory, asked.cache)
    speed = cost.speed_of(crew, jobs)
    found = cost.estimates(jobs[0], crew.world.size, speed)
    how = run.choose_split(asked.split, jobs, crew.world.size, found)
    crew.share({"how": how, "scripted": asked.scripted, "plan_only": asked.plan_only})
    if asked.scripted and how != CLIPS:
        raise UserError("A script's parts are shared out whole.", "Leave {field:split} out.")
    sized = jobs if how in (CLIPS, WHOLE) else [run.split_over(job, how, crew.world.size) for job in jobs]
    costs = cost.told(found, how, crew.world.size, speed)
    if asked.plan_only:
        show.planned(sized)
        show.told(costs)
        return
    if asked.scripted:
        check_parts(jobs, files, asked.again)
    else:
        begun(jobs[0], files)
    show.started(sized)
    for line in costs:
        show.note(line)
    if asked.scripted:
        made_by = partial(run.parts_shared_out, crew, jobs, files.resume)
        show.follow(make_script(jobs, files, keep=asked.keep, again=asked.again, made_by=made_by))
    elif how == CLIPS:
        show.follow(run.clips_shared_out(crew, jobs[0], files))
    elif how == WHOLE:
        show.note("Note: one machine makes this clip faster than several, and the others wait.")
        show.follow(make(jobs[0], files))
    else:
        show.follow(run.made_together(crew, jobs[0], files, how))


def follow(crew: Crew, asked: JointRun, model: ModelDir, files: Output) -> None:
    """The other machines' side; arguments as for `lead`, of which only the model is this machine's own."""
    from mlx_ltxw.machines import cost, run
    from mlx_ltxw.pipeline.split import CLIPS, WHOLE

    def nothing() -> Sequence[Any]:
        return []

    jobs = run.agreed_plans(crew, nothing, model, asked.memory, asked.cache)
    cost.speed_of(crew, jobs)
    said = crew.share()
    if said["plan_only"]:
        return
    if said["scripted"]:
        run.help_parts(crew, jobs)
    elif said["how"] == CLIPS:
        run.help_clips(crew, jobs[0], files)
    elif said["how"] != WHOLE:
        run.help_together(crew, jobs[0], said["how"])
