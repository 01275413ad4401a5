"""Whether the machines of a run share its base, which all of them have to do alike."""

from __future__ import annotations

import dataclasses
import json
import socket

from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.budget import Budget
from mlx_ltxw.train.budget import TrainingStep, budget_for_training
from mlx_ltxw.weights.streaming import RESIDENT
from mlx_ltxw.world import World


def agreed_budget(step: TrainingStep, world: World, memory: int | None = None) -> tuple[Budget, bool]:
    """The memory plan of a run, and whether each machine holds a part of the base's blocks.

    Machines share the base if the run says so, or if one of them cannot hold it whole and each can hold its part. All
    machines call this at once.

    Args:
        step: What a forward goes over.
        world: The machines.
        memory: As for `budget_for_training`.

    Raises:
        UserError: it does not fit, or cannot be shared.
    """
    asked = step.config.share_base
    if asked and not step.can_be_shared:
        raise UserError(
            "Machines cannot share a base whose blocks are kept whole for the way back, or compiled.",
            "Give {field:gradient_checkpointing=true} and leave {field:compile} out, or leave {field:share_base} out.",
        )
    if world.size == 1 or asked is False or not step.can_be_shared:
        return budget_for_training(step, memory), False
    alone, together = (
        _planned(one, memory) for one in (step, dataclasses.replace(step, shared=True))
    )  # fmt: skip
    whole = isinstance(alone, Budget) and alone.residency is RESIDENT
    facts = {"host": socket.gethostname(), "whole": whole, "alone": _fault(alone), "together": _fault(together)}
    every = [json.loads(one) for one in world.exchange(json.dumps(facts).encode())]
    shares = asked or not (all(one["whole"] for one in every) or any(one["together"] for one in every))
    made = together if shares else alone
    if isinstance(made, UserError):
        raise made
    for one in every:
        if fault := one["together" if shares else "alone"]:
            raise UserError(f"{one['host']}: {fault}", "")
    return made, shares


def _planned(step: TrainingStep, memory: int | None) -> Budget | UserError:
    try:
        return budget_for_training(step, memory)
    except UserError as error:
        return error


def _fault(made: Budget | UserError) -> str:
    return f"{made.message} {made.hint}" if isinstance(made, UserError) else ""
