"""What stands around every page: the navigation, the colour scheme, and how a page hears news."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request as HttpRequest
from nicegui import ui

from mlx_ltxw.studio import texts
from mlx_ltxw.studio.hub import Follower
from mlx_ltxw.studio.pages.page import Page
from mlx_ltxw.studio.state import Studio

SCRIPTS: tuple[str, ...] = ("studio.js",)
"""Of `studio/static`, on every page."""
_THEMES: tuple[tuple[str, bool | None], ...] = (("auto", None), ("light", False), ("dark", True))


def register(studio: Studio, pages: Sequence[Page]) -> None:
    """Gives each page its address."""
    for page in pages:
        _register(studio, page, pages)


def _register(studio: Studio, page: Page, pages: Sequence[Page]) -> None:
    @ui.page(page.path, title=f"{page.name} · {texts.NAME}", response_timeout=15.0)
    async def show(request: HttpRequest) -> None:
        ui.add_head_html('<link rel="stylesheet" href="/static/studio.css">')
        for script in SCRIPTS:
            ui.add_body_html(f'<script src="/static/{script}" defer></script>')
        ui.colors(primary="#3d5a80", secondary="#6b7a8f", accent="#b5654a")
        _header(studio, page, pages)
        with ui.element("main").classes("page").props('id="content" tabindex="-1"'):
            await page.show(studio, dict(request.query_params))


def _header(studio: Studio, page: Page, pages: Sequence[Page]) -> None:
    theme = dict(_THEMES).get(studio.store.setting("theme", "auto"))
    dark = ui.dark_mode(theme)
    with ui.element("header").classes("top"):
        ui.link(texts.SKIP, "#content").classes("skip")
        with ui.element("nav").props(f'aria-label="{texts.NAVIGATION}"'):
            for one in pages:
                link = ui.link(one.name, one.path)
                if one is page:
                    link.props('aria-current="page"')

        def turn() -> None:
            names = [name for name, _ in _THEMES]
            now = studio.store.setting("theme", "auto")
            name = names[(names.index(now) + 1) % len(names)] if now in names else names[0]
            studio.store.set_setting("theme", name)
            dark.set_value(dict(_THEMES)[name])
            button.props(f'aria-label="{texts.THEME}: {name}" icon="{_ICONS[name]}"')

        now = studio.store.setting("theme", "auto")
        button = ui.button(on_click=turn).props(
            f'flat round dense icon="{_ICONS.get(now, _ICONS["auto"])}" aria-label="{texts.THEME}: {now}"'
        )


_ICONS = {"auto": "brightness_auto", "light": "light_mode", "dark": "dark_mode"}


def follow(studio: Studio, follower: Follower) -> None:
    """Hands a page the studio's news as long as it is open; nothing is asked again and again."""
    client = ui.context.client

    def hear(news: dict[str, object]) -> None:
        with client:
            follower(news)

    end = studio.hub.follow(hear)
    client.on_delete(end)
