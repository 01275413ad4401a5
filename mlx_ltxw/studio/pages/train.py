"""The page `Train`."""

from __future__ import annotations

from collections.abc import Mapping

from nicegui import ui

from mlx_ltxw.studio.state import Studio


async def show(studio: Studio, query: Mapping[str, str]) -> None:
    """Builds the page."""
    ui.label("Train")
