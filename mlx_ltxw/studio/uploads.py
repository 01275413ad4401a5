"""Files dropped on the page: streamed to the disk within bounds, and kept only if they are what they should be."""

from __future__ import annotations

import asyncio
import functools
import secrets
from pathlib import Path
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import check_free, replacing
from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.images import read_image
from mlx_ltxw.media.video import describe_picture
from mlx_ltxw.printing import printable
from mlx_ltxw.studio import texts
from mlx_ltxw.studio.folder import plain_name
from mlx_ltxw.studio.media import upload_url
from mlx_ltxw.studio.state import Studio

PATH = "/upload"
LARGEST = 512 << 20
"""Bytes of one file."""
MOST, MOST_BYTES = 1000, 8 << 30
"""Files, and bytes, that are kept."""
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
_SOUNDS = {".wav", ".flac", ".mp3", ".m4a", ".ogg", ".aac", ".aif", ".aiff"}
_VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}
ENDINGS = sorted(_IMAGES | _SOUNDS | _VIDEOS)


def routes(studio: Studio) -> list[Route]:
    """The address that takes a file: its bytes are the body, its name is `?name=`."""
    return [Route(PATH, functools.partial(_receive, studio), methods=["POST"])]


async def _receive(studio: Studio, request: HttpRequest) -> Response:
    name = printable(request.query_params.get("name", "file"))[:255]
    try:
        return JSONResponse(await _stored(studio, request, name))
    except UserError as error:
        return JSONResponse({"error": str(error)}, 400)


async def _stored(studio: Studio, request: HttpRequest, name: str) -> dict[str, Any]:
    ending = Path(name).suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"{name} is no picture, sound or video.", f"Drop one that ends in {', '.join(ENDINGS)}.")
    count, size = studio.store.uploads_size()
    if count >= MOST or size + int(request.headers.get("content-length") or 0) > MOST_BYTES:
        raise UserError(*texts.TOO_MANY_UPLOADS)
    check_free(studio.folder.uploads, LARGEST, "an upload needs", "or give the studio another --folder.")
    path = studio.folder.uploads / f"{secrets.token_hex(8)}{ending}"
    with replacing(path) as partial:
        with partial.open("wb") as file:
            async for piece in request.stream():
                file.write(piece)
        written = partial.stat().st_size
    try:
        kind = await asyncio.to_thread(_kind, path)
    except UserError:
        path.unlink()
        raise
    number = studio.store.add_upload(path.name, name, kind, written)
    return {"id": number, "name": name, "kind": kind, "url": upload_url(number)}


def _kind(path: Path) -> str:
    """`image`, `sound` or `video`, by what is in it.

    Raises:
        UserError: nothing that can be read.
    """
    if path.suffix in _IMAGES:
        read_image(path)
        return "image"
    info = probe(path)
    if path.suffix in _VIDEOS and info.width:
        describe_picture(path)
        return "video"
    if info.rate:
        return "sound"
    raise UserError("There is neither a sound nor a picture in the file.", "Drop another one.")


def upload_path(studio: Studio, number: int) -> Path:
    """The file of an upload.

    Raises:
        UserError: there is none of that number.
    """
    upload = studio.store.upload(number)
    if upload is None:
        raise UserError("There is no such upload.", "Drop the file again.")
    return plain_name(studio.folder.uploads, upload.file)
