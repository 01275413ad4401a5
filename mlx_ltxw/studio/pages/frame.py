"""What stands around every page: the navigation, the colour scheme, and how a page hears news."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request as HttpRequest
from nicegui import Client, app, ui

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import texts
from mlx_ltxw.studio.hub import Follower
from mlx_ltxw.studio.pages.page import Page
from mlx_ltxw.studio.pages.parts import say
from mlx_ltxw.studio.state import Studio
from mlx_ltxw.studio.wording import worded_error

SCRIPTS: tuple[str, ...] = ("studio.js",)
"""Of `studio/static`, on every page."""
STYLES: tuple[str, ...] = ("studio.css",)
_THEMES: tuple[tuple[str, bool | None], ...] = (("auto", None), ("light", False), ("dark", True))


def register(studio: Studio, pages: Sequence[Page]) -> None:
    """Gives each page its address."""
    app.on_exception(_tell)
    for page in pages:
        _register(studio, page, pages)


def _tell(error: Exception) -> None:
    """Says on every open page, all of which are the user's, why a press on one of them did nothing: a full disk.

    NiceGUI does not tell which page it was.
    """
    if isinstance(error, UserError):
        for client in tuple(Client.instances.values()):
            with client:
                say(str(worded_error(error)), bad=True)


def _register(studio: Studio, page: Page, pages: Sequence[Page]) -> None:
    @ui.page(page.path, title=f"{page.name} · {texts.NAME}", response_timeout=15.0)
    async def show(request: HttpRequest) -> None:
        for sheet in STYLES:
            ui.add_head_html(f'<link rel="stylesheet" href="/static/{sheet}">')
        for script in SCRIPTS:
            ui.add_body_html(f'<script src="/static/{script}" defer></script>')
        _header(studio, page, pages)
        with ui.element("main").classes("page").props('id="content" tabindex="-1"'):
            await page.show(studio, dict(request.query_params))


def _header(studio: Studio, page: Page, pages: Sequence[Page]) -> None:
    dark = ui.dark_mode(dict(_THEMES).get(_theme(studio)))
    with ui.element("header").classes("top"):
        ui.link(texts.SKIP, "#content").classes("skip")
        with ui.element("nav").props(f'aria-label="{texts.NAVIGATION}"'):
            for one in pages:
                link = ui.link(one.name, one.path)
                if one is page:
                    link.props('aria-current="page"')

        def turn() -> None:
            names = [name for name, _ in _THEMES]
            name = names[(names.index(_theme(studio)) + 1) % len(names)]
            studio.store.set_setting("theme", name)
            dark.set_value(dict(_THEMES)[name])
            show()

        button = ui.button(on_click=turn).props("flat round dense")

        def show() -> None:
            name = _theme(studio)
            button.props["icon"] = _ICONS[name]
            button.props["aria-label"] = button.props["title"] = f"{texts.THEME}: {texts.THEMES[name]}"

        show()


def _theme(studio: Studio) -> str:
    """`auto`, `light` or `dark`."""
    name = studio.store.setting("theme", "auto")
    return name if name in dict(_THEMES) else "auto"


_ICONS = {"auto": "brightness_auto", "light": "light_mode", "dark": "dark_mode"}


def follow(studio: Studio, follower: Follower) -> None:
    """Hands a page the studio's news as long as it is open; nothing is asked again and again."""
    client = ui.context.client

    def hear(news: dict[str, object]) -> None:
        with client:
            follower(news)

    end = studio.hub.follow(hear)
    client.on_delete(end)
