"""Make: what to make, what it needs, what is being made, and what was made last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from mlx_ltxw.studio import texts
from mlx_ltxw.studio.pages.form import form_of
from mlx_ltxw.studio.pages.frame import follow
from mlx_ltxw.studio.pages.given import show_given
from mlx_ltxw.studio.pages.jobs import show_jobs
from mlx_ltxw.studio.pages.more import show_more
from mlx_ltxw.studio.pages.parts import section
from mlx_ltxw.studio.pages.plan import PlanBar
from mlx_ltxw.studio.pages.sizes import show_sizes
from mlx_ltxw.studio.pages.takes import take_card
from mlx_ltxw.studio.pages.voice import show_voice
from mlx_ltxw.studio.pages.words import show_words
from mlx_ltxw.studio.state import Studio

_LATEST = 6


async def show(studio: Studio, query: Mapping[str, str]) -> None:
    """Builds the page."""
    form = await form_of(studio)
    with ui.element("div").classes("columns"):
        with ui.element("div").classes("column-form"):
            show_words(form)
            show_voice(form)
            show_sizes(form)
            show_given(form)
            show_more(form)
            bar = PlanBar(form)
        with ui.element("div").classes("column-made"):
            show_jobs(studio)
            _latest(studio)
    await bar.plan()

    def hear(news: dict[str, Any]) -> None:
        if news["event"] == "done":  # how long the like takes is known now
            ui.timer(0.0, bar.plan, once=True)

    follow(studio, hear)


def _latest(studio: Studio) -> None:
    with section(texts.LATEST, key="latest"):

        @ui.refreshable
        def cards() -> None:
            takes = studio.store.takes(limit=_LATEST)
            if not takes:
                ui.label(texts.LATEST_EMPTY).classes("muted")
            with ui.element("div").classes("cards"):
                for take in takes:
                    take_card(studio, take)

        cards()

    def hear(news: dict[str, Any]) -> None:
        if news["event"] in ("written", "deleted", "restored"):
            cards.refresh()

    follow(studio, hear)
