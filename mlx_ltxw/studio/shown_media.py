"""Sounds and spectrograms for the players: of takes, of clips to train on, and of listening samples.

Addresses hold numbers and names of runs, never paths. A folder of clips gets a number that cannot be guessed when its
page is opened; only sound and video files that the data check listed are served (`clips`).
"""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio.analysis import PICTURE, SOUND, Shown
from mlx_ltxw.studio.heard import cache_of, kept_of
from mlx_ltxw.studio.media import take_path
from mlx_ltxw.studio.runs import sample_file
from mlx_ltxw.studio.state import Studio

_MOST_SETS = 20
_NAMES = {"sound.flac": (SOUND, "audio/flac"), "levels.png": (PICTURE, "image/png")}
_HEADERS = {"cache-control": "private, no-cache"}  # a file of the same name may be another one tomorrow


class ClipSets:
    """Folders of clips that pages have open; the oldest are forgotten.

    Attributes:
        sets: Number -> the files in the order of the table, None for one that is not served.
    """

    def __init__(self) -> None:
        self.sets: dict[str, tuple[Path | None, ...]] = {}

    def add(self, files: Sequence[Path | None]) -> str:
        """Its number."""
        number = secrets.token_urlsafe(12)
        self.sets[number] = tuple(files)
        while len(self.sets) > _MOST_SETS:
            del self.sets[next(iter(self.sets))]
        return number


CLIP_SETS = ClipSets()


def take_shown_url(take: int, name: str) -> str:
    """Of a take's `sound.flac` or `levels.png`."""
    return f"/media/shown/take/{take}/{name}"


def sample_shown_url(run: str, step: int, number: int, name: str) -> str:
    """Of a listening sample's."""
    return f"/media/shown/run/{run}/{step}/{number}/{name}"


def clip_url(number: str, index: int, name: str) -> str:
    """Of a clip's `file`, or its `wave.json`."""
    return f"/media/shown/clips/{number}/{index}/{name}"


def routes(studio: Studio) -> list[Route]:
    """The addresses of all of them."""
    finders = {
        "/media/shown/take/{id:int}/{name}": _of_take,
        "/media/shown/run/{run}/{step:int}/{number:int}/{name}": _of_sample,
        "/media/shown/clips/{set}/{index:int}/{name}": _of_clip,
    }
    return [Route(path, functools.partial(_answered, studio, find)) for path, find in finders.items()]


async def shown_of(studio: Studio, path: Path) -> Shown:
    """What is shown of a file; found by the helper if it was not before.

    Raises:
        UserError: it cannot be read, or has no sound.
    """
    if (known := kept_of(studio.folder, path)) is not None:
        return known
    await studio.helper.ask("find_shown", {"path": str(path)})
    found = kept_of(studio.folder, path)
    if found is None:
        raise UserError(f"{path.name} changed while it was listened to.", "Open the page again.")
    return found


ShownFinder = Callable[[Studio, HttpRequest], Awaitable[Response]]


async def _answered(studio: Studio, find: ShownFinder, request: HttpRequest) -> Response:
    try:
        return await find(studio, request)
    except UserError as error:
        return PlainTextResponse(str(error), 404)
    except asyncio.CancelledError:  # the server ends
        return PlainTextResponse("", 503)


async def _of_take(studio: Studio, request: HttpRequest) -> Response:
    take = studio.store.take(int(request.path_params["id"]))
    if take is None:
        raise UserError("There is no such take.", "Choose one of the history.")
    return await _shown(studio, take_path(studio, take), request.path_params["name"])


async def _of_sample(studio: Studio, request: HttpRequest) -> Response:
    asked = request.path_params
    path = sample_file(studio.folder, asked["run"], int(asked["step"]), int(asked["number"]))
    return await _shown(studio, path, asked["name"])


async def _of_clip(studio: Studio, request: HttpRequest) -> Response:
    asked = request.path_params
    files = CLIP_SETS.sets.get(asked["set"], ())
    index = int(asked["index"])
    if index >= len(files):
        raise UserError("That folder is not open any more.", "Look at it again.")
    path = files[index]
    if path is None:
        raise UserError("This file is not played here.", "Play it in another program.")
    if asked["name"] == "file":
        return FileResponse(path, headers=_HEADERS)
    if asked["name"] == "wave.json":
        return JSONResponse(await studio.helper.ask("find_waveform", {"path": str(path)}), headers=_HEADERS)
    raise UserError("There is nothing of that name.", "Open the page again.")


async def _shown(studio: Studio, path: Path, name: str) -> Response:
    if name not in _NAMES:
        raise UserError("There is nothing of that name.", "Open the page again.")
    await shown_of(studio, path)
    file, kind = _NAMES[name]
    return FileResponse(cache_of(studio.folder, path) / file, media_type=kind, headers=_HEADERS)
