"""Folders for a while, among the system's temporary files. What a killed process left there the next one removes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_ltxw.files import PARTIAL_PREFIX, PARTIAL_SUFFIX


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Gives an empty folder, which is removed with what is in it; first, those that killed processes left are.

    Its process holds a lock on it, which the system takes back when the process ends in any way.

    Raises:
        OSError: there is no place for temporary files.
    """
    sweep_folders(Path(tempfile.gettempdir()))
    while True:
        folder = Path(tempfile.mkdtemp(PARTIAL_SUFFIX, PARTIAL_PREFIX))
        with suppress(FileNotFoundError):  # another process swept it before it was held
            handle = _hold(folder)
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def sweep_folders(where: Path) -> None:
    """Removes the folders of processes that are no more; a living one's stay, and all where the disk knows no locks.

    Args:
        where: Only folders in it that `temporary_folder` made are touched.
    """
    for folder in where.glob(f"{PARTIAL_PREFIX}*{PARTIAL_SUFFIX}"):
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _hold(folder: Path) -> int:
    """The handle that holds a folder's lock.

    Raises:
        FileNotFoundError: the folder is gone.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    with suppress(OSError):  # a disk without locks; nobody sweeps there either
        fcntl.flock(handle, fcntl.LOCK_EX)  # waits for one who is sweeping it
    try:
        os.stat(folder)
    except FileNotFoundError:
        os.close(handle)
        raise
    return handle
