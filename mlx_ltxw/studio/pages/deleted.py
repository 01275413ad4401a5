"""Takes that were deleted in the last week, to be had back."""

from __future__ import annotations

from nicegui import ui

from mlx_ltxw.studio import texts_hear as texts
from mlx_ltxw.studio.pages.frame import follow
from mlx_ltxw.studio.pages.parts import button
from mlx_ltxw.studio.state import Studio
from mlx_ltxw.studio.store import KeptTake

LISTED = 100


class Deleted:
    """The list, folded away; it is not there while nothing is deleted.

    Args:
        studio: Has the takes.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.place = ui.expansion(texts.DELETED_TAKES).classes("more").props('data-section="deleted"')
        with self.place:
            self.list = ui.element("ul").classes("history")
        self._fill()
        follow(studio, lambda news: self._fill() if news["event"] in ("deleted", "restored") else None)

    def _fill(self) -> None:
        takes = self.studio.store.deleted_takes(LISTED)
        self.place.set_visibility(bool(takes))
        self.list.clear()
        with self.list:
            for take in takes:
                self._row(take)

    def _row(self, take: KeptTake) -> None:
        def restore() -> None:
            self.studio.store.restore_take(take.id)
            self.studio.hub.tell("restored", take=take.id)

        with ui.element("li"):
            ui.label(f"#{take.id} · {take.prompt}").classes("prompt grow")
            button(texts.RESTORE, restore, icon="undo").props["aria-label"] = f"{texts.RESTORE}: {take.id}"
