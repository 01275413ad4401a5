"""Keep: everything that was made, searchable, with its request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from mlx_ltxw.studio import texts
from mlx_ltxw.studio.deck import MOST_TAKES
from mlx_ltxw.studio.media import take_url
from mlx_ltxw.studio.pages.deleted import Deleted
from mlx_ltxw.studio.pages.frame import follow
from mlx_ltxw.studio.pages.parts import button, say, section, switch, text_field
from mlx_ltxw.studio.pages.takes import again, facts_line, made_at, show_request, star
from mlx_ltxw.studio.state import Studio
from mlx_ltxw.studio.store import KeptTake

_PAGE = 24
"""Takes at a time; more come when they are asked for, so a long history opens as fast as a short one."""


async def show(studio: Studio, query: Mapping[str, str]) -> None:
    """Builds the page."""
    _History(studio, query.get("search", "")[:500])
    Deleted(studio)


class _History:
    """The list, and what is chosen in it."""

    def __init__(self, studio: Studio, search: str) -> None:
        self._studio = studio
        self._search, self._starred = search, False
        self._chosen: list[int] = []
        self._last: int | None = None
        with section(texts.KEEP, key="keep"):
            with ui.element("div").classes("line"):
                text_field(texts.SEARCH, search, self._find, hint=texts.SEARCH_HINT).props('type="search" debounce=250')
                switch(texts.ONLY_STARRED, False, self._star_only)
                self._compare = button(texts.COMPARE.format(count=2), self._open, icon="graphic_eq", kind="main")
            self._count = ui.label().classes("muted").props('role="status"')
            self._list = ui.element("ul").classes("history")
            self._more = button(texts.SHOW_MORE, self._show_more)
        self._fill()
        follow(studio, self._hear)

    def _fill(self) -> None:
        self._last = None
        self._list.clear()
        self._show_more()
        self._show_chosen()

    def _show_more(self) -> None:
        takes = self._studio.store.takes(self._search, starred=self._starred, before=self._last, limit=_PAGE + 1)
        with self._list:
            for take in takes[:_PAGE]:
                self._row(take)
        if takes[:_PAGE]:
            self._last = takes[:_PAGE][-1].id
        self._more.set_visibility(len(takes) > _PAGE)
        count = self._studio.store.count_takes()
        empty = self._last is None
        some = texts.COUNT_ONE if count == 1 else texts.COUNT.format(count=count)
        self._count.set_text(some if not empty else texts.NOTHING_FOUND if count else texts.NOTHING_KEPT)

    def _row(self, take: KeptTake) -> None:
        studio = self._studio
        with ui.element("li") as item:
            item.props["data-take"] = take.id
            box = ui.checkbox(value=take.id in self._chosen, on_change=lambda event: self._choose(take.id, event.value))
            box.props["aria-label"] = f"{texts.SELECT} {take.id}"
            picture = ui.element("img").classes("thumb").props('loading="lazy" alt=""')
            picture.props["src"] = take_url(take.id, "png")
            with ui.element("div").classes("grow"):
                ui.label(take.prompt).classes("prompt")
                ui.label(f"{made_at(take)} · {facts_line(take)}").classes("muted")
                if take.note:
                    ui.label(take.note).classes("note")
            with ui.element("div").classes("actions"):
                star(studio, take)
                ui.link(texts.PLAY, f"/hear?takes={take.id}").classes("action")
                button(texts.AGAIN, lambda: again(studio, take))
                button(texts.REQUEST, lambda: show_request(studio, take))

    def _choose(self, number: int, chosen: bool) -> None:
        if chosen and number not in self._chosen:
            self._chosen.append(number)
        elif not chosen and number in self._chosen:
            self._chosen.remove(number)
        self._show_chosen()

    def _show_chosen(self) -> None:
        self._compare.set_visibility(len(self._chosen) > 1)
        self._compare.set_text(texts.COMPARE.format(count=len(self._chosen)))

    def _open(self) -> None:
        if len(self._chosen) > MOST_TAKES:
            say(f"{MOST_TAKES} takes are as many as can be compared at once.", bad=True)
            return
        ui.navigate.to(f"/hear?takes={','.join(map(str, self._chosen))}")

    def _find(self, text: str) -> None:
        self._search = text[:500]
        self._fill()

    def _star_only(self, starred: bool) -> None:
        self._starred = starred
        self._fill()

    def _hear(self, news: dict[str, Any]) -> None:
        if news["event"] in ("written", "deleted", "restored"):
            self._fill()
