"""What files say, read once for as long as they stay the same: a plan asks for one header dozens of times."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Read = TypeVar("Read")

_FILES = 64
"""Of each kind; a model has some twenty, of which the transformer's headers take three megabytes in memory."""


def remembered(read: Callable[[Path], Read]) -> Callable[[Path], Read]:
    """A function of a file's content that reads it again only where the file is another one, or was written since.

    Args:
        read: Gives what nobody changes; what it raises is not remembered.
    """

    @functools.lru_cache(_FILES)
    def of(path: Path, *identity: int) -> Read:
        return read(path)

    @functools.wraps(read)
    def known(path: Path) -> Read:
        try:
            found = os.stat(path)
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return read(path)  # which says what is wrong
        return of(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    return known
