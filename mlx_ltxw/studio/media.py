"""What the page plays and shows: files by their number in the database, never by a path; players may ask for ranges."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio, write_wav
from mlx_ltxw.media.spectrogram import write_png
from mlx_ltxw.media.video import describe_picture, read_video
from mlx_ltxw.studio.folder import plain_name
from mlx_ltxw.studio.state import Studio
from mlx_ltxw.studio.store import KeptTake

_RATE = 48_000
_KINDS = {".mp4": "video/mp4", ".wav": "audio/wav", ".png": "image/png", ".jpg": "image/jpeg", ".webm": "video/webm"}
_FRESH = {"cache-control": "private, max-age=31536000, immutable"}
_NEVER = {"cache-control": "no-store"}


def take_url(take: int, kind: str = "") -> str:
    """Of a take: the file itself, its sound (`wav`) or its first frame or spectrum (`png`)."""
    return f"/media/take/{take}" + (f".{kind}" if kind else "")


def preview_url(job: int, kind: str, step: int) -> str:
    """Of the running job's preview, `png` or `wav`; the step makes it a new one each time."""
    return f"/media/job/{job}/preview.{kind}?step={step}"


def upload_url(upload: int) -> str:
    """Of a file that was dropped on the page."""
    return f"/media/upload/{upload}"


def routes(studio: Studio) -> list[Route]:
    """The addresses of all of them."""
    return [
        Route("/media/take/{id:int}", functools.partial(_answered, studio, _take)),
        Route("/media/take/{id:int}.wav", functools.partial(_answered, studio, _sound)),
        Route("/media/take/{id:int}.png", functools.partial(_answered, studio, _poster)),
        Route("/media/job/{id:int}/preview.{kind}", functools.partial(_answered, studio, _preview)),
        Route("/media/upload/{id:int}", functools.partial(_answered, studio, _upload)),
    ]


def take_path(studio: Studio, take: KeptTake) -> Path:
    """The file of a take.

    Raises:
        UserError: it is not there any more.
    """
    path = plain_name(studio.folder.takes, take.file)
    if not path.is_file():
        raise UserError(f"{take.file} is not there any more.", "Make it again.")
    return path


async def sound_path(studio: Studio, take: KeptTake) -> Path:
    """A wav of a take's sound; that of an mp4 is decoded once and kept.

    Raises:
        UserError: it is not there, or cannot be read.
    """
    path = take_path(studio, take)
    if path.suffix == ".wav":
        return path
    return await _cached(studio.folder.cache / f"{take.id}.wav", functools.partial(_decode, path))


async def poster_path(studio: Studio, take: KeptTake) -> Path:
    """A picture of a take: its first frame, or the spectrum of a sound alone.

    Raises:
        UserError: as `sound_path`.
    """
    path = take_path(studio, take)
    draw = _first_frame if take.has_picture else _spectrum
    return await _cached(studio.folder.cache / f"{take.id}.png", functools.partial(draw, path))


Finder = Callable[[Studio, HttpRequest], Awaitable[Response]]


async def _answered(studio: Studio, find: Finder, request: HttpRequest) -> Response:
    try:
        return await find(studio, request)
    except UserError as error:
        return PlainTextResponse(str(error), 404)


async def _take(studio: Studio, request: HttpRequest) -> Response:
    return _file(take_path(studio, _asked(studio, request)))


async def _sound(studio: Studio, request: HttpRequest) -> Response:
    return _file(await sound_path(studio, _asked(studio, request)))


async def _poster(studio: Studio, request: HttpRequest) -> Response:
    return _file(await poster_path(studio, _asked(studio, request)))


async def _preview(studio: Studio, request: HttpRequest) -> Response:
    number, kind = int(request.path_params["id"]), request.path_params["kind"]
    if kind not in ("png", "wav"):
        raise UserError("There is no such preview.", "Look at the running job.")
    path = plain_name(studio.folder.takes, f"{number:06d}.preview.{kind}")
    if not path.is_file():
        raise UserError("There is no preview yet.", "Wait for the next step.")
    return _file(path, _NEVER)


async def _upload(studio: Studio, request: HttpRequest) -> Response:
    upload = studio.store.upload(int(request.path_params["id"]))
    if upload is None:
        raise UserError("There is no such upload.", "Drop the file again.")
    return _file(plain_name(studio.folder.uploads, upload.file))


def _asked(studio: Studio, request: HttpRequest) -> KeptTake:
    take = studio.store.take(int(request.path_params["id"]))
    if take is None:
        raise UserError("There is no such take.", "Choose one of the history.")
    return take


def _file(path: Path, headers: dict[str, str] = _FRESH) -> Response:
    kind = _KINDS.get(path.suffix.lower(), "application/octet-stream")
    return FileResponse(path, media_type=kind, headers=headers)


_making: dict[Path, asyncio.Lock] = {}


async def _cached(path: Path, make: Callable[[Path], None]) -> Path:
    """A file that is made when it is first asked for, once."""
    lock = _making.setdefault(path, asyncio.Lock())
    async with lock:
        if not path.exists():
            await asyncio.to_thread(make, path)
    _making.pop(path, None)
    return path


def _decode(source: Path, target: Path) -> None:
    write_wav(target, read_audio(source, _RATE), _RATE)


def _first_frame(source: Path, target: Path) -> None:
    picture = describe_picture(source)
    write_png(target, read_video(source, 1, 24.0, picture.width, picture.height)[0])


def _spectrum(source: Path, target: Path) -> None:
    from mlx_ltxw.media.drawing import write_spectrogram  # Pillow, when a picture is wanted

    write_spectrogram(target, read_audio(source, _RATE), _RATE)
