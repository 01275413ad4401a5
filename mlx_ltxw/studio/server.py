"""The server: NiceGUI's pages, the routes of files, and the guard before all of them."""

from __future__ import annotations

import socket
import time
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import media, shown_media, texts, uploads
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.heard import forget
from mlx_ltxw.studio.pages import PAGES
from mlx_ltxw.studio.pages.frame import register
from mlx_ltxw.studio.safety import Guard, Rules
from mlx_ltxw.studio.state import Studio

STATIC = Path(__file__).parent / "static"
ROUTES = (media.routes, uploads.routes, shown_media.routes)
"""What serves files: each gives its routes for a studio."""
KEPT_DELETED = 7 * 24 * 3600.0
"""Seconds for which a deleted take can be had back."""


def serve(
    folder: Path, host: str = "127.0.0.1", port: int = 8188, model: str | None = None, token: str | None = None,
    names: tuple[str, ...] = (), browser: bool = False, tell: Callable[[str], object] = print,
) -> None:  # fmt: skip
    """Runs the studio until it is interrupted.

    Args:
        folder: Where it keeps everything.
        host, port: Where it listens; port 0 takes a free one.
        model: Used where a page names none.
        token: Asked of browsers; one is made where others than this machine can reach it.
        names: Other names by which it is reached.
        browser: Whether to open it in the browser.
        tell: Gets the address.

    Raises:
        UserError: another studio has the folder, or the address is taken.
    """
    place = StudioFolder.open(folder)
    with place.held():
        listening = _listening(host, port)
        port = listening.getsockname()[1]
        rules = Rules.of(host, port, token, names)
        studio = Studio.open(place, model)
        _forget(studio)
        app = application(studio, rules)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, ws_max_size=4 << 20,
            timeout_graceful_shutdown=2, lifespan="on", h11_max_incomplete_event_size=64 << 10,
        )  # fmt: skip
        address = _address(host, port, rules.token)
        tell(address)
        if browser:
            webbrowser.open(address)
        uvicorn.Server(config).run(sockets=[listening])


def application(studio: Studio, rules: Rules) -> Guard:
    """The whole application of a studio; NiceGUI's part is the process's own, so there is one of them."""
    from nicegui import ui

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await studio.start()
        try:
            yield
        finally:
            await studio.stop()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    for routes in ROUTES:
        app.router.routes += routes(studio)
    app.mount("/static", StaticFiles(directory=STATIC))
    register(studio, PAGES)
    ui.run_with(
        app, title=texts.NAME, dark=None, language="en-US", tailwind=False, show_welcome_message=False,
        binding_refresh_interval=None, reconnect_timeout=30.0, favicon="🎙",
    )  # fmt: skip
    return Guard(app, rules, {uploads.PATH: uploads.LARGEST})


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)  # who calls before the application is up is answered then
    except (OSError, OverflowError) as error:
        listening.close()
        raise UserError(
            f"The studio cannot listen on {host}:{port}: {error}.", "Give another --port or --host."
        ) from error
    return listening


def _address(host: str, port: int, token: str | None) -> str:
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def _forget(studio: Studio) -> None:
    """Removes the files of takes that were deleted a week ago."""
    for name in studio.store.forget_deleted(time.time() - KEPT_DELETED):
        with suppress(OSError):
            (studio.folder.takes / name).unlink(missing_ok=True)
        forget(studio.folder, studio.folder.takes / name)
