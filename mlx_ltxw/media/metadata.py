"""The JSON that a made file carries (the request that made it): a comment tag in mp4 and wav, a text chunk in png."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import LARGEST_TEXT
from mlx_ltxw.media.containers import check_regular, opened
from mlx_ltxw.parsing import Unsound, load_json, sound

KEY = "comment"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_MADE = "Give a file that mlx-ltxw wrote and that no other program has saved again."


def to_text(metadata: Mapping[str, Any]) -> str:
    """The metadata as one line of JSON, non-ASCII letters kept readable."""
    return json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)


def read_metadata(path: Path | str) -> dict[str, Any]:
    """The JSON object that `write_wav`, `Mp4Writer` or `write_png` put into a file.

    Raises:
        UserError: the file cannot be read, or carries no such object.
    """
    path = Path(path)
    check_regular(path, _MADE)
    text = _png_text(path) if _is_png(path) else _container_text(path)
    try:
        value = sound(load_json(text))
    except Unsound:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} carries no settings of the run that made it.", _MADE)
    return value


def wav_chunk(text: str) -> bytes:
    """A RIFF `LIST INFO ICMT` chunk. libsndfile writes one too, but drops or cannot read back texts beyond 2 KB."""
    data = text.encode() + b"\0"
    data += b"\0" * (len(data) % 2)
    return b"LIST" + struct.pack("<I", 12 + len(data)) + b"INFO" + b"ICMT" + struct.pack("<I", len(data)) + data


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk: length, kind, data, checksum (PNG specification, section 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_text_chunk(text: str) -> bytes:
    """An uncompressed UTF-8 `iTXt` chunk under the key `comment`."""
    return png_chunk(b"iTXt", KEY.encode() + b"\0\0\0\0\0" + text.encode())


def _is_png(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8) == PNG_SIGNATURE
    except OSError:
        return False  # `opened` says what is wrong with it


def _png_text(path: Path) -> str:
    """The text under our key; other chunks are passed over, and one that is too large for a text."""
    prefix = KEY.encode() + b"\0\0\0\0\0"
    with path.open("rb") as file:
        file.seek(len(PNG_SIGNATURE))
        while len(head := file.read(8)) == 8:
            size, body = int.from_bytes(head[:4], "big"), file.tell()
            if head[4:] == b"iTXt" and size <= LARGEST_TEXT and file.read(len(prefix)) == prefix:
                return file.read(size - len(prefix)).decode(errors="replace")
            file.seek(body + size + 4)
    return ""


def _container_text(path: Path) -> str:
    with opened(path, _MADE) as container:
        return str(container.metadata.get(KEY, ""))
