"""What is taken away of a take: its files, its command and its Python."""

from __future__ import annotations

from nicegui import ui

from mlx_ltxw.studio import texts_hear as texts
from mlx_ltxw.studio.media import take_url
from mlx_ltxw.studio.store import KeptTake


def open_export(take: KeptTake) -> None:
    """Opens the dialog of one take."""
    with ui.dialog() as dialog, ui.card().classes("export"):
        ui.label(texts.EXPORT_TITLE.format(title=f"#{take.id}")).props('role="heading" aria-level="2"')
        if take.has_picture:
            ui.link(texts.AS_MP4, take_url(take.id)).props(f'download="take-{take.id}.mp4"')
        ui.link(texts.AS_WAV, take_url(take.id, "wav")).props(f'download="take-{take.id}.wav"')
        ui.button(texts.CLOSE, on_click=dialog.close).props("flat no-caps")
    dialog.open()
