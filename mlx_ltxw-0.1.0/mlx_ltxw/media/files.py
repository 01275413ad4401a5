"""Whole files or none: everything is written beside its final name and moved there when complete."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_ltxw.errors import UserError

_serial = itertools.count()
_HINTS = {
    errno.ENOSPC: "Free some space on that disk, or choose another output folder.",
    errno.EDQUOT: "Your quota on that disk is used up; free some space, or choose another output folder.",
    errno.EFBIG: "The file is larger than this disk or account allows; choose another output folder.",
    errno.EROFS: "That disk is read-only; choose another output folder.",
}
_ANOTHER = "Choose an output file in a folder that exists and that you may write to."


def check_writable(path: Path | str) -> None:
    """Refuses an output name that cannot be written, so that a long run fails before it starts.

    Raises:
        UserError: the folder is missing or not writable, or the name belongs to something that is not a plain file.
    """
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"{path} cannot be written: {folder} is not a folder.", _ANOTHER)
    if path.exists() and not path.is_file():
        raise UserError(f"{path} cannot be written: it is not a plain file.", "Choose another output name.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: {folder} is not writable.", _ANOTHER)


@contextmanager
def write_errors(path: Path | str) -> Iterator[None]:
    """Turns what the operating system (also through FFmpeg) says about writing `path` into a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path} could not be written: {reason}.", _HINTS.get(error.errno or 0, _ANOTHER)) from error


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Gives a name in `path`'s folder to write to; on success it becomes `path`, on any exception it is removed.

    Raises:
        UserError: `path` cannot be written.
    """
    path = Path(path)
    check_writable(path)
    partial = path.parent / f".mlx-ltxw-{os.getpid()}-{next(_serial)}.part"
    try:
        yield partial
        with write_errors(path):
            _flush(partial)  # the name must not reach the disk before the content does
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path | str, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all."""
    with replacing(path) as partial, write_errors(path):
        partial.write_bytes(data)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
