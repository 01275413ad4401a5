"""A take under the video lock beside the same one whose lips follow, to see and hear what the lock keeps."""

from __future__ import annotations

import dataclasses

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import texts_hear as texts
from mlx_ltxw.studio.asked import Asked, asked_of_record
from mlx_ltxw.studio.state import Studio
from mlx_ltxw.studio.store import KeptTake


def other_way(take: KeptTake) -> str:
    """What the button says that makes it: `With lips that follow`, `Under the lock`; empty where there is none."""
    asked = _turned(take)
    if asked is None:
        return ""
    return texts.UNDER_LOCK if asked.request.lock_video else texts.LIPS_FOLLOW


async def make_other_way(studio: Studio, take: KeptTake) -> int:
    """Puts the same request, the lock turned, into the queue; the job's number.

    Raises:
        UserError: there is no such request, or the queue is full.
    """
    asked = _turned(take)
    if asked is None:
        raise UserError(texts.NO_OTHER_WAY, "Choose a clip with a picture that was made with an adapter.")
    answer = await studio.helper.ask("plan", asked.as_dict())
    return studio.queue.add(asked.kind, asked.title, answer["asked"], answer.get("work"))


def _turned(take: KeptTake) -> Asked | None:
    """The request with the lock turned; None where that makes no difference, or where a take shares its picture."""
    try:
        asked = asked_of_record(take.record, take.model)
    except UserError:
        return None
    request = asked.request
    if asked.parts or not request.adapters or not take.has_picture or take.number or request.takes:
        return None
    turned = dataclasses.replace(request, lock_video=not request.lock_video, seeds=(take.seed,))
    return dataclasses.replace(asked, request=turned)
