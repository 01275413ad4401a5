"""The state of Make in one open page: the draft, who shows what of it, and how it outlives a reload."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from nicegui import ui

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import texts
from mlx_ltxw.studio.draft import Draft, DraftAdapter, ModelFacts
from mlx_ltxw.studio.state import Studio
from mlx_ltxw.studio.wording import worded_error

_KEY = "draft"
_PAUSE = 0.35
"""Seconds without a key pressed after which a change is kept and planned."""


class Form:
    """What is filled in, shared by the sections of the page.

    Args:
        studio: It belongs to.
        draft: To begin with.
        facts: Of the model that it names; None where it cannot be opened.

    Attributes:
        fault: Why the model cannot be opened; None if it can.
    """

    def __init__(self, studio: Studio, draft: Draft, facts: ModelFacts | None, fault: UserError | None = None) -> None:
        self.studio, self.draft, self.facts, self.fault = studio, draft, facts, fault
        self._now: list[Callable[[], None]] = []
        self._soon: list[Callable[[], Any]] = []
        self._pause: asyncio.Task[None] | None = None
        self._client = ui.context.client
        self._client.on_delete(self._leave)
        _open[self._client.id] = self

    def at_once(self, follower: Callable[[], None]) -> None:
        """Calls `follower` with every change."""
        self._now.append(follower)

    def when_still(self, follower: Callable[[], Any]) -> None:
        """Calls or awaits `follower` when changes pause."""
        self._soon.append(follower)

    def set(self, **values: Any) -> None:
        """Changes fields of the draft."""
        for name, value in values.items():
            setattr(self.draft, name, value)
        self.changed()

    def putting(self, record: Any, field: str) -> Callable[[Any], None]:
        """What changes a field of one of the draft's adapters, pictures or parts."""

        def put(value: Any) -> None:
            setattr(record, field, value)
            self.changed()

        return put

    def removing(self, records: list[Any], record: Any, refresh: Callable[[], Any]) -> Callable[[], None]:
        """What takes one of them out, and shows the others."""

        def remove() -> None:
            records.remove(record)
            self.changed()
            refresh()

        return remove

    def changed(self) -> None:
        """Says that the draft is another."""
        for follower in self._now:
            follower()
        if self._pause is not None:
            self._pause.cancel()
        self._pause = asyncio.get_running_loop().create_task(self._still())

    async def _still(self) -> None:
        await asyncio.sleep(_PAUSE)
        keep(self.studio, self.draft)
        with self._client:
            for follower in self._soon:
                result = follower()
                if asyncio.iscoroutine(result):
                    await result

    def _leave(self) -> None:
        if self.dropped():
            keep(self.studio, self.draft)

    def dropped(self) -> bool:
        """Forgets a change that is not kept yet; whether there was one."""
        _open.pop(self._client.id, None)
        pause, self._pause = self._pause, None
        return pause is not None and not pause.done() and pause.cancel()


_open: dict[str, Form] = {}
"""The forms of open pages, by their client."""


def keep(studio: Studio, draft: Draft) -> None:
    """Keeps a draft for the next time that Make is opened."""
    studio.store.set_setting(_KEY, json.dumps(draft.as_dict()))


def open_in_make(studio: Studio, draft: Draft) -> None:
    """Goes to Make with a draft, in place of what is filled in there."""
    if (form := _open.get(ui.context.client.id)) is not None:
        form.dropped()
    keep(studio, draft)
    ui.navigate.to("/")


def kept(studio: Studio) -> Draft | None:
    """The draft that was filled in last; None where there is none that can be read."""
    text = studio.store.setting(_KEY)
    try:
        return Draft.read(json.loads(text)) if text else None
    except (UserError, ValueError):
        return None


def example(facts: ModelFacts) -> Draft:
    """What a first visit finds: something that is made well with one click."""
    line = facts.lines[0] if facts.lines else texts.EXAMPLE_LINE
    adapters = [DraftAdapter(name) for name in facts.adapters[:1]]
    return Draft(scene=texts.EXAMPLE_SCENE, line=line, adapters=adapters)


async def form_of(studio: Studio) -> Form:
    """The form of the draft that was filled in last, with what is known of its model."""
    found = kept(studio)
    draft = found or Draft()
    try:
        facts = await studio.helper.ask(
            "model", {"model": draft.model.strip() or studio.model, "text_encoder": draft.text_encoder.strip() or None}
        )
    except UserError as error:
        return Form(studio, draft, None, worded_error(error))
    about = ModelFacts.read(facts)
    return Form(studio, found or example(about), about)
