"""What would fit where training does not: the least change that does, planned before it is named."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import Machine
from mlx_ltxw.pipeline.budget import MARGIN, Budget
from mlx_ltxw.pipeline.plan import latent_grid
from mlx_ltxw.pipeline.refusal import largest, sizes_below
from mlx_ltxw.printing import readable
from mlx_ltxw.train.step_needs import TrainingStep
from mlx_ltxw.weights.dtype import default_dtype
from mlx_ltxw.weights.streaming import RESIDENT

StepPlanned = Callable[[TrainingStep, Machine], Budget]
"""The plan of a run on a machine."""
StepFits = Callable[[TrainingStep], bool]
"""Whether a run can be made on the machine at hand."""

_LOCK = {"coupled": False, "video_loss": 0.0}
_SAVING = {"gradient_checkpointing": True, "batch_size": 1}
_BOTH = "{field:gradient_checkpointing=true} and {field:batch_size=1}"
_CHANGES: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("leave compile out", {"compile": None}, False),
    ("compute blocks again: {field:gradient_checkpointing=true}", {"gradient_checkpointing": True}, False),
    ("give {field:batch_size=1}", {"batch_size": 1}, False),
    (f"give {_BOTH}", _SAVING, False),
    ("train under the video lock: leave coupled out", _LOCK, False),
    (f"train under the video lock (leave coupled out), with {_BOTH}", _LOCK | _SAVING, False),
    ("convert the base with {field:quantize=4}", {}, True),
    (f"convert the base with {{field:quantize=4}}, and give {_BOTH}", _SAVING, True),
)
"""What to do, what of the options it changes, and whether the base gets 4 bits; the smallest change first."""
_SAVES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("leave coupled out", _LOCK), ("leave compile out", {"compile": None}),
    ("give {field:gradient_checkpointing=true}", {"gradient_checkpointing": True}),
    ("give {field:batch_size=1}", {"batch_size": 1}),
)  # fmt: skip
"""All that saves memory and leaves the clips and the base as they are."""


def fits(step: TrainingStep, budget: Budget) -> bool:
    """Whether a run can be made so."""
    if step.shared:
        return step.can_be_shared and budget.peak <= budget.limit
    return budget.peak <= budget.limit and (budget.residency is RESIDENT or not _bound_to_stay(step))


def _bound_to_stay(step: TrainingStep) -> bool:
    return step.config.coupled or bool(step.config.compile)


def refusal(step: TrainingStep, machine: Machine, budget: Budget, planned: StepPlanned) -> UserError:
    """Says which part does not fit, and the least change that would; every one that is named was planned, and fits.

    Args:
        step: What does not fit.
        machine: Where.
        budget: Its plan.
        planned: Plans a change, here or on the machine with all of its memory.
    """
    worst = max(budget.needs, key=lambda need: need.peak)
    text = f"Training may use {readable(budget.limit)}, and a part of it needs {readable(budget.peak)}: {worst.name}."
    if budget.peak <= budget.limit:
        what = "coupled" if step.config.coupled else "compile"
        text = f"The base does not fit into {readable(budget.limit)} whole, which {{field:{what}=true}} needs."

    def here(other: TrainingStep) -> bool:
        return fits(other, planned(other, machine))

    change = next(_fitting(step, here), None) or next(_smaller(step, here), None)
    changes = [change] if change else []
    if machine.whole is not None:
        with_all = planned(step, machine.whole)
        enough = 1.01 * (with_all if _bound_to_stay(step) else budget).peak / MARGIN
        if fits(step, with_all) and enough <= machine.whole.budget:
            changes.append(f"let it use {readable(enough)} ({{field:memory}})")
    hint = ", or ".join(changes or ["close other programs, or use a machine with more memory"])
    return UserError(text, f"{hint[0].upper()}{hint[1:]}.")


def _fitting(step: TrainingStep, fit: StepFits) -> Iterator[str]:
    """Changes of the options or the base that keep the clips as they are."""
    packed = default_dtype() == mx.float32 or step.quantised or step.model.quantized_layers("transformer")
    for hint, change, quantised in _CHANGES:
        if quantised and packed:  # already, or of no use on a CPU, which unpacks them
            continue
        other = dataclasses.replace(_with(step, change), quantised=quantised or step.quantised)
        if other != step and fit(other):
            yield hint


def _smaller(step: TrainingStep, fit: StepFits) -> Iterator[str]:
    """Shorter or smaller clips, or sound alone: with the options as they are, else with those that save most."""
    least, also = step, ""
    for hint, change in _SAVES:
        if (saving := _with(least, change)) != least:
            least, also = saving, f"{also} and {hint}"
    yield from _shrunk(step, fit)
    yield from (f"{hint}{also}" for hint in _shrunk(least, fit))


def _shrunk(step: TrainingStep, fit: StepFits) -> Iterator[str]:
    width, height, length, _ = step.config.sizes
    grid = latent_grid(step.model)
    lengths = range(1 + grid.frames, length, grid.frames)
    count = largest(len(lengths), lambda n: fit(_with(step, {"frames": lengths[n]})))
    if count is not None:
        yield f"train on shorter clips ({{field:frames={lengths[count]}}})"
    if step.audio_only:
        return
    sizes = sizes_below(width, height, grid.width, grid.height)
    for frames in (length, *lengths[:1]):
        count = largest(len(sizes), functools.partial(_as_small, step, sizes, frames, fit))
        if count is not None:
            wide, high = sizes[count]
            what = "smaller clips" if frames == length else "smaller and shorter clips"
            short = "" if frames == length else f", {{field:frames={frames}}}"
            yield f"train on {what} ({{field:width={wide}}}, {{field:height={high}}}{short})"
    if fit(dataclasses.replace(step, audio_only=True)):
        yield "train on sound alone ({field:audio_only=True})"


def _as_small(step: TrainingStep, sizes: list[tuple[int, int]], frames: int, fit: StepFits, number: int) -> bool:
    width, height = sizes[number]
    return fit(_with(step, {"width": width, "height": height, "frames": frames}))


def _with(step: TrainingStep, change: dict[str, Any]) -> TrainingStep:
    return dataclasses.replace(step, config=dataclasses.replace(step.config, **change))
