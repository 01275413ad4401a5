"""The page `Train`: clips looked over and captioned, a run begun, watched, stopped and gone on with."""

from __future__ import annotations

from collections.abc import Mapping

from nicegui import ui

from mlx_ltxw.studio.pages.train_clips import ClipTable
from mlx_ltxw.studio.pages.train_new import NewRun
from mlx_ltxw.studio.pages.train_runs import RunList
from mlx_ltxw.studio.state import Studio


async def show(studio: Studio, query: Mapping[str, str]) -> None:
    """Builds the page, with the run `?run=NAME` open."""
    for style in ("deck.css", "train.css"):
        ui.add_head_html(f'<link rel="stylesheet" href="/static/{style}">')
    with ui.element("div").classes("train"):
        table = ClipTable(studio)
        table.build()
        runs = RunList(studio, query.get("run"))
        new = NewRun(studio, table, runs)
        new.build()
        runs.build()
