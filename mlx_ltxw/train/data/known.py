"""What was found out about a file, kept as long as the file stays the same: the next check of the data is quick.

One JSON line a finding, added as it comes, so that a check that was cut goes on where it was. Files are told by path,
size and time, as `make` and `rsync` do.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from mlx_ltxw import __version__
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_bytes, write_errors
from mlx_ltxw.parsing import Unsound, build, load_json

FORMAT = "1"
"""Raised when the same file would be judged otherwise than before."""

_LARGEST = 1 << 30  # bytes

T = TypeVar("T")


class Known:
    """Findings by key.

    Args:
        file: JSONL, its folder made if need be; None keeps nothing.
        writes: Whether new ones are added to it.
    """

    def __init__(self, file: Path | None = None, writes: bool = True) -> None:
        self._file, self._writes = file, writes and file is not None
        self._values: dict[str, Any] = {}
        if file is not None and file.is_file():
            for raw in read_bytes(file, _LARGEST).splitlines():
                try:
                    key, value = load_json(raw)
                except (Unsound, TypeError, ValueError):  # cut short by a crash, or not ours
                    continue
                if isinstance(key, str):
                    self._values[key] = value

    def get(self, key: str, cls: type[T]) -> T | None:
        """The finding of a key; None where there is none, or none of this form."""
        try:
            return build(cls, self._values[key], key)
        except (KeyError, UserError):
            return None

    def put(self, key: str, values: dict[str, Any]) -> None:
        """Keeps a finding.

        Raises:
            UserError: the file cannot be written.
        """
        self._values[key] = values
        if self._writes and self._file is not None:
            with write_errors(self._file):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([key, values]) + "\n")


def key_of(path: Path, *what: Any) -> str:
    """Tells a file's content, and what is asked of it.

    Raises:
        UserError: the file is gone.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "Put it back, or leave it out.") from error
    parts = [FORMAT, __version__, str(path.absolute()), found.st_size, found.st_mtime_ns, repr(what)]
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogateescape")).hexdigest()[:40]
