"""What is taken away of a take: its files, its command and its Python."""

from __future__ import annotations

from nicegui import ui

from mlx_ltxw.studio import texts_hear as texts
from mlx_ltxw.studio.media import take_url
from mlx_ltxw.studio.pages.parts import button
from mlx_ltxw.studio.pages.takes import show_spelled, spelled_of
from mlx_ltxw.studio.state import Studio
from mlx_ltxw.studio.store import KeptTake


async def open_export(studio: Studio, take: KeptTake) -> None:
    """Opens the dialog of one take."""
    spelled = await spelled_of(studio, take)
    title = texts.EXPORT_TITLE.format(title=f"#{take.id}")
    with ui.dialog(value=True) as dialog, ui.card().classes("dialog wide"):
        ui.label(title).props('role="heading" aria-level="2"')
        with ui.element("div").classes("line"):
            if take.has_picture:
                ui.link(texts.AS_MP4, take_url(take.id)).props["download"] = f"take-{take.id}.mp4"
            ui.link(texts.AS_WAV, take_url(take.id, "wav")).props["download"] = f"take-{take.id}.wav"
        show_spelled(spelled)
        with ui.element("div").classes("line end"):
            button(texts.CLOSE, dialog.close)
