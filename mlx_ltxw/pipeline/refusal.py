"""What would fit where a run does not: of each change that a user can make, the smallest that does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from math import gcd

from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import Machine
from mlx_ltxw.pipeline.budget import MARGIN, Budget, best_budget
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.work import Work
from mlx_ltxw.printing import readable

Planned = Callable[[Work, Machine], Budget]
"""The plan of a run on a machine."""
Fits = Callable[[Work], bool]
"""Whether a run fits into the machine at hand."""


def budget_for(work: Work, machine: Machine, program: int | None = None) -> Budget:
    """The plan of a run; arguments as `best_budget`'s.

    Raises:
        UserError: it does not fit with every block read as it is needed, or a decoder does not.
    """
    budget = best_budget(work, machine, program)
    if not budget.fits:
        raise refusal(work, budget, machine, lambda other, on: best_budget(other, on, program), MARGIN)
    return budget


def refusal(work: Work, budget: Budget, machine: Machine, planned: Planned, margin: float) -> UserError:
    """Says which part does not fit, and what would: every change that is named was planned, and fits.

    Args:
        work: What does not fit.
        budget: Its plan.
        machine: Where.
        planned: Plans a change, here or on the machine with all of its memory.
        margin: Of the memory that a plan may fill.
    """
    worst = max(budget.needs, key=lambda need: need.peak)
    changes = _changes(work, machine, planned)
    if machine.whole is not None:
        enough = 1.01 * budget.peak / margin
        if enough <= machine.whole.budget:
            changes.append(f"let it use {readable(enough)} ({{field:memory}})")
        elif planned(work, machine.whole).fits:
            changes.append("leave {field:memory} out")
        elif not changes:
            changes = [f"leave {{field:memory}} out and {one}" for one in _changes(work, machine.whole, planned)]
    if not changes:
        changes = ["close other programs", "use a machine with more memory"]
    hint = ", ".join(changes[:-1]) + (", or " if changes[:-1] else "") + changes[-1] + "."
    text = f"This run may use {readable(budget.limit)}, and a part of it needs {readable(budget.peak)}: {worst.name}."
    return UserError(text, hint[0].upper() + hint[1:])


def _changes(work: Work, machine: Machine, planned: Planned) -> list[str]:
    def fits(other: Work) -> bool:
        return planned(other, machine).fits

    return list(_fitting(work, fits)) or list(_both(work, fits))


def _fitting(work: Work, fits: Fits) -> Iterator[str]:
    last = work.stages[-1].geometry
    if not work.given.frames:  # whose length is the clip's
        lengths = range(1 + last.grid.frames, last.frames, last.grid.frames)
        count = largest(len(lengths), lambda n: fits(shorter(work, lengths[n])))
        if count is not None:
            yield f"make it shorter ({{field:frames={lengths[count]}}})"
    if not work.audio_only:
        sizes = _smaller_sizes(work)
        count = largest(len(sizes), lambda n: fits(resized(work, *sizes[n])))
        if count is not None:
            width, height = sizes[count]
            yield f"make it smaller ({{field:width={width}}}, {{field:height={height}}})"
    if not work.model.quantized_layers("transformer") and fits(dataclasses.replace(work, quantised=True)):
        yield "convert the model with {field:quantize=4}"


def _both(work: Work, fits: Fits) -> Iterator[str]:
    """A smaller and shorter clip, as large as possible, where neither alone is enough."""
    if work.audio_only or work.given.frames:
        return
    last, sizes = work.stages[-1].geometry, _smaller_sizes(work)
    lengths = range(1 + last.grid.frames, last.frames, last.grid.frames)
    least = lengths[:1]
    size = largest(len(sizes) * len(least), lambda n: fits(resized(shorter(work, least[0]), *sizes[n])))
    if size is None:
        return
    small = resized(work, *sizes[size])
    count = largest(len(lengths), lambda n: fits(shorter(small, lengths[n])))
    assert count is not None
    width, height = sizes[size]
    sides = f"{{field:width={width}}}, {{field:height={height}}}"
    yield f"make it smaller and shorter ({sides}, {{field:frames={lengths[count]}}})"


def shorter(work: Work, frames: int) -> Work:
    """The same run with fewer frames."""
    return _with_sizes(work, [dataclasses.replace(stage.geometry, frames=frames) for stage in work.stages])


def resized(work: Work, width: int, height: int) -> Work:
    """The same run at another size of the finished clip."""
    last, sizes = work.stages[-1].geometry, [stage.geometry for stage in work.stages]
    return _with_sizes(
        work,
        [dataclasses.replace(one, width=one.width * width // last.width, height=one.height * height // last.height)
         for one in sizes],
    )  # fmt: skip


def _with_sizes(work: Work, sizes: Sequence[Geometry]) -> Work:
    stages = [dataclasses.replace(one, geometry=size) for one, size in zip(work.stages, sizes, strict=True)]
    return dataclasses.replace(work, stages=tuple(stages))


def _smaller_sizes(work: Work) -> list[tuple[int, int]]:
    """Sizes of about the same shape that the stages can have, smallest first."""
    last, first = work.stages[-1].geometry, work.stages[0].geometry
    step = [last.grid.width, last.grid.height]
    if len(work.stages) > 1:  # the first stage's are whole latents too
        step = [
            step[0] * last.width // gcd(last.width, first.width),
            step[1] * last.height // gcd(last.height, first.height),
        ]
    return sizes_below(last.width, last.height, *step)


def sizes_below(width: int, height: int, across: int, down: int) -> list[tuple[int, int]]:
    """Sizes of about the same shape, smallest first: multiples of `across` and `down` pixels."""
    columns, rows = width // across, height // down
    found = []
    for wide in range(1, columns):
        high = max(1, round(rows * wide / columns))
        found.append((wide * across, high * down))
    return found


def largest(count: int, fits: Callable[[int], bool]) -> int | None:
    """The largest of 0 to `count` - 1 that fits; None if not even 0 does."""
    if not count or not fits(0):
        return None
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
