"""What people read goes to stderr; whether anybody reads it never ends the work."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any


class _Lenient(io.TextIOBase):
    """A text stream whose reader may go."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError("a text stream takes text")
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a closed pipe, a closed file
            self._stream = open(os.devnull, "w")  # noqa: SIM115
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return bool(getattr(self._stream, "isatty", lambda: False)())

    def fileno(self) -> int:
        return int(self._stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"


@contextmanager
def lenient_stderr() -> Iterator[None]:
    """Lets the work go on when stderr is closed, from the start or half-way."""
    with redirect_stderr(_Lenient(sys.stderr or open(os.devnull, "w"))):
        yield
