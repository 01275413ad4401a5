"""What of LTX-2.3 fits into a machine: the plan's own sum for clips of some sizes, at each precision."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import mlx.core as mx

from mlx_ltxw.doctor.paper import PaperModel
from mlx_ltxw.machine import Machine
from mlx_ltxw.pipeline.budget import best_budget
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.plan import latent_grid
from mlx_ltxw.pipeline.recipes import ONE_STAGE, stages_of
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.resolve import defaults_of, resolve
from mlx_ltxw.pipeline.work import Work

PRECISIONS = {"bf16": None, "-q 8": "8", "-q 4": "4"}
"""As `convert -q` has them."""
CLIPS = {
    "sound alone": Request("", audio_only=True),
    "704x480x97": Request("", width=704, height=480, frames=97),
    "1280x704x121": Request("", width=1280, height=704, frames=121),
}
_PROMPT = "a woman sits at a table by a window and whispers: " * 5
"""As long as a caption."""


@dataclass(frozen=True)
class Fit:
    """How a clip fits.

    Attributes:
        peak: Bytes at the largest moment of a run; one network is in memory at a time.
        blocks: Of the transformer's, those that stay in memory; the others are read for each step. None where it does
            not fit at all.
        of: Blocks in all.
    """

    peak: int
    blocks: int | None
    of: int


def fit(model: PaperModel, clip: str, budget: int, program: int | None = None) -> Fit:
    """How a clip in one stage of the distilled model fits into some bytes of a GPU.

    Args:
        model: At a precision.
        clip: A key of `CLIPS`.
        budget: Bytes that a run may use.
        program: Bytes that the program itself takes of them; None for those of this machine.
    """
    request = dataclasses.replace(CLIPS[clip], prompt=_PROMPT, pipeline=ONE_STAGE)
    settings = resolve(request, defaults_of(request, model), model.variant)
    size = Geometry(settings.width, settings.height, settings.frames, settings.frame_rate, latent_grid(model))
    stages = stages_of(settings, model, size)
    work = Work(
        model, mx.bfloat16, settings.audio_only, stages, [settings.prompt], [], None, False, False, 0, stages[0].steps
    )
    plan = best_budget(work, Machine("metal", budget, budget), program)
    count = model.network_config("transformer").layers
    stay = count if plan.residency.layers is None else plan.residency.layers
    return Fit(plan.peak, stay if plan.fits else None, count)


def table(machine: Machine, program: int | None = None) -> list[dict[str, object]]:
    """One row a precision: `precision`, `disk`, and for each clip its peak in bytes and the blocks that stay.

    Args:
        machine: What there is.
        program: As for `fit`; none is counted on a card with memory of its own.
    """
    if machine.backend == "cuda":
        program = 0
    rows = []
    for name, packing in PRECISIONS.items():
        model = PaperModel.at(packing)
        clips = {clip: dataclasses.asdict(fit(model, clip, machine.budget, program)) for clip in CLIPS}
        rows.append({"precision": name, "disk": model.disk, "clips": clips})
    return rows
