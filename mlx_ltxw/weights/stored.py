"""Bytes of a file whose header was read before, by calls to the system.

A file is not mapped into memory for this: where the disk does not give what is mapped, or the file has become shorter,
the system ends the process without a word.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mlx_ltxw.files import lost, read_errors

ReadBytes = Callable[[int, int], np.ndarray]
"""From where on, and how many bytes -> (bytes,) uint8, which are the caller's own."""


@contextmanager
def opened(path: Path) -> Iterator[ReadBytes]:
    """Reads one file, the same while the block lasts.

    Raises:
        UserError: it is gone, shorter than its header said, or cannot be read.
    """
    with read_errors(path):
        handle = os.open(path, os.O_RDONLY)

    def read(start: int, count: int) -> np.ndarray:
        found, done = np.empty(count, np.uint8), 0
        while done < count:
            with read_errors(path):
                more = os.preadv(handle, [found[done:].data], start + done)
            if not more:
                raise lost(path, "it has become shorter")
            done += more
        return found

    try:
        yield read
    finally:
        os.close(handle)
