"""Files in and out, for every room.

Whole files or none: everything is written beside its final name, flushed to the disk, and moved there when complete.
What a killed process leaves beside is removed by the next one that writes into the folder. What is read is a regular
file of a bounded size. A folder that only one process may change is locked, and the second one hears who has it.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.printing import readable

LARGEST_TEXT = 64 << 20
"""Bytes of the largest text or table that is read whole, unless a caller says otherwise."""

LOCK = ".mlx-ltxw.lock"
PARTIAL_PREFIX, PARTIAL_SUFFIX = ".mlx-ltxw-", ".part"
"""Of names that are given up with their process."""
_serial = itertools.count()
_swept: set[str] = set()
_partial: set[Path] = set()
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}  # some network file systems; two runs are the user's care there
_NO_FLUSH = {errno.EINVAL, errno.ENOTSUP}  # file systems that flush no folder
BROKEN = {errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE}
"""What the system says of a disk that is gone or damaged."""
WRITE_HINTS = {
    errno.ENOSPC: "Free some space on that disk, or choose another output folder.",
    errno.EDQUOT: "Your quota on that disk is used up; free some space, or choose another output folder.",
    errno.EFBIG: "The file is larger than this disk or account allows; choose another output folder.",
    errno.EROFS: "That disk is read-only; choose another output folder.",
} | dict.fromkeys(BROKEN, "See that the disk is connected and sound, or choose another output folder.")
"""What to do about a file that cannot be written, by the system's number."""
_ANOTHER = "Choose an output file in a folder that exists and that you may write to."


def check_writable(path: Path | str) -> None:
    """Refuses an output name that cannot be written, so that a long run fails before it starts.

    Raises:
        UserError: the folder is missing or not writable, or the name belongs to something that is not a plain file.
    """
    path = Path(path)
    folder = path.parent
    with write_errors(path):
        if not folder.is_dir():
            raise UserError(f"{path} cannot be written: {folder} is not a folder.", _ANOTHER)
        if path.exists() and not path.is_file():
            raise UserError(f"{path} cannot be written: it is not a plain file.", "Choose another output name.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{path} cannot be written: {folder} is not writable.", _ANOTHER)


def check_free(folder: Path, needed: int, what: str, hint: str) -> None:
    """Refuses work whose files will not fit on the disk.

    Args:
        folder: Where they go; is there.
        needed: Bytes.
        what: `the checkpoints need`, for the message.
        hint: What to do beside freeing space.

    Raises:
        UserError: there is too little space.
    """
    with write_errors(folder):
        free = shutil.disk_usage(folder).free
    if free < needed:
        text = f"{folder} has {readable(free)} of free space, and {what} about {readable(needed)}."
        raise UserError(text, f"Free some space, {hint}")


@contextmanager
def write_errors(path: Path | str, hint: str = "") -> Iterator[None]:
    """Turns what the system says about writing `path`, also through FFmpeg and MLX, into a `UserError`.

    Args:
        path: What is written.
        hint: What to do about a full disk, where another sentence than "choose another folder" helps.
    """
    try:
        yield
    except OSError as error:
        reason, code = error.strerror or str(error), error.errno or 0
        full = hint if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
        raise UserError(f"{path} could not be written: {reason}.", full or WRITE_HINTS.get(code, _ANOTHER)) from error
    except RuntimeError as error:
        if not str(error).startswith("[write]"):  # MLX's, which names no reason; it is a full disk as good as always
            raise
        reason = os.strerror(errno.ENOSPC)
        raise UserError(f"{path} could not be written: {reason}.", hint or WRITE_HINTS[errno.ENOSPC]) from error


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Gives a name in `path`'s folder to write to; on success it becomes `path`, on any exception it is removed.

    The new file has the permissions that the process's umask gives, and is on the disk when the call returns.

    Raises:
        UserError: `path` cannot be written.
    """
    path = Path(path)
    check_writable(path)
    if str(path.parent) not in _swept:
        sweep(path.parent)
    partial = held = None
    try:
        with write_errors(path):
            partial, held = _begin(path.parent)
        _partial.add(partial)
        yield partial
        with write_errors(path):
            _flush(partial)  # the name must not reach the disk before the content does
            os.replace(partial, path)
            _flush_folder(path.parent)
    except BaseException:
        _take_back(path.parent, partial)
        raise
    finally:
        if partial is not None and held is not None:
            _partial.discard(partial)
            os.close(held)


def abandon() -> None:
    """Removes what this process has half-written, before it ends in the middle (`os._exit`)."""
    for partial in tuple(_partial):
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all."""
    with replacing(path) as partial, write_errors(path):
        partial.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Writes a UTF-8 text to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def sweep(folder: Path, deep: bool = False) -> None:
    """Removes what killed processes left in `folder`: half-written files, and locks. What a living one has stays.

    Args:
        folder: Only files that `replacing` made, and locks of single files, are touched.
        deep: Also in the folders below.
    """
    _swept.add(str(folder))
    with suppress(OSError):  # a folder that cannot be listed is no reason to stop
        below = "**/" if deep else ""
        patterns = f"{below}{PARTIAL_PREFIX}*{PARTIAL_SUFFIX}", f"{below}.*{LOCK}"
        for part in itertools.chain.from_iterable(map(folder.glob, patterns)):
            with suppress(OSError):
                handle = os.open(part, os.O_RDWR | os.O_NOFOLLOW)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its writer holds it as long as it lives
                    part.unlink()
                finally:
                    os.close(handle)


@contextmanager
def locked_folder(path: Path, what: str, lock: Path | None = None) -> Iterator[None]:
    """Holds a folder, so that no other process works in it at the same time; the lock goes with the process.

    Args:
        path: The folder; made if need be.
        what: What is done in it, for the other's message: `training run`, `conversion`.
        lock: The file that carries the lock, removed at the end; in the folder by default.

    Raises:
        UserError: another process holds it, and which; or the folder cannot be written.
    """
    lock, handle = lock or path / LOCK, None
    try:
        with write_errors(path):
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = _lock(lock, path, what)
        _partial.add(lock)
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                lock.unlink()
            _partial.discard(lock)
            os.close(handle)


def not_a_file(path: Path | str, mode: int) -> str | None:
    """Says that what has a name is no file, by the mode the system gives; None for one that is."""
    if stat.S_ISREG(mode):
        return None
    return f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'a pipe or device'}, not a file."


def read_bytes(path: Path | str, limit: int = LARGEST_TEXT, wanted: str = "Name a file.") -> bytes:
    """All bytes of a regular file.

    Args:
        path: The file.
        limit: Bytes.
        wanted: What to do where it is a folder, a pipe or a device: what kind of file to name.

    Raises:
        UserError: it is missing, unreadable, no regular file (a pipe, a device), or larger than `limit`.
    """
    path = Path(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer would keep it waiting
        try:
            if text := not_a_file(path, os.fstat(handle).st_mode):
                raise UserError(text, wanted)
            with os.fdopen(handle, "rb", closefd=False) as file:
                data = file.read(limit + 1)
        finally:
            os.close(handle)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.", "Check the path.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise unreadable(path, error) from error
    if len(data) > limit:
        raise UserError(f"{path} is larger than the {limit:,} bytes such a file has.", "Name another file.")
    return data


def unreadable(path: Path | str, error: OSError | ValueError) -> UserError:
    """What to say of a file that the system does not give."""
    broken = getattr(error, "errno", None) in BROKEN
    hint = "See that the disk is connected and sound." if broken else "Check the path and its permissions."
    return UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.", hint)


def decode_text(data: bytes) -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 as some editors save it, without a byte order mark.

    Which it is, the mark tells, or where the zero bytes lie among the first four (RFC 4627, section 3).

    Raises:
        UnicodeDecodeError: it is none of these.
    """
    return data.decode(json.detect_encoding(data)).removeprefix("\ufeff")


def read_text(path: Path | str, limit: int = LARGEST_TEXT, wanted: str = "Name a file.") -> str:
    """The text of a regular file; see `decode_text`, and `read_bytes` for the arguments.

    Raises:
        UserError: as `read_bytes`, or it is no text.
    """
    data = read_bytes(path, limit, wanted)
    try:
        text = decode_text(data)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from error
    if "\0" in text:
        raise UserError(f"{path} is not text: it holds a zero byte.", "Name a text file, saved as UTF-8.")
    return text


WHERE_FROM = "See that the disk with the model is there and sound, then run again."
"""What to do where a model's files have gone since it was opened."""


def lost(path: Path, reason: str | None) -> UserError:
    """What to say of a model's file or folder that could be read before."""
    return UserError(f"{path} can no longer be read ({reason}).", WHERE_FROM)


@contextmanager
def read_errors(path: Path | str) -> Iterator[None]:
    """Turns what the system says about reading `path`, which could be read before, into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise lost(Path(path), error.strerror) from error


def _begin(folder: Path) -> tuple[Path, int]:
    """A new file to write to, and the handle that holds its lock."""
    while True:
        partial = folder / f"{PARTIAL_PREFIX}{os.getpid()}-{next(_serial)}{PARTIAL_SUFFIX}"
        try:
            handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        try:
            if _keeps(handle, partial):
                return partial, handle
        except BaseException:  # Ctrl-C: what nobody can close would be held as long as the process lives
            os.close(handle)
            raise
        os.close(handle)


def _keeps(handle: int, partial: Path) -> bool:
    """Locks a new file; False for one that another process sweeps."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _same(handle, partial)
    except OSError as error:  # or a file system without locks
        return not isinstance(error, BlockingIOError)


def _take_back(folder: Path, partial: Path | None) -> None:
    """Removes a file that is given up; None for one that was being made."""
    if partial is None:
        sweep(folder)
    with suppress(OSError):
        if partial is not None:
            partial.unlink(missing_ok=True)
    _swept.discard(str(folder))  # a disk that takes nothing gives nothing back either; the next one sweeps


def _lock(lock: Path, path: Path, what: str) -> int:
    """The handle of a lock file that is ours, with our name in it."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _holds(handle, lock, path):
                with suppress(OSError):  # a full disk; it is locked all the same
                    os.ftruncate(handle, 0)
                    os.write(handle, f"a {what}, process {os.getpid()} on {socket.gethostname()}".encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _holds(handle: int, lock: Path, path: Path) -> bool:
    """Locks an open lock file; False for one that the one before us removed."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 200).decode("utf-8", "replace") or "another process"
        raise UserError(f"{path} is in use by {holder}.", "Wait until it ends, or stop it.") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return _same(handle, lock)


def _same(handle: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
        if sys.platform == "darwin":
            with suppress(OSError):
                fcntl.fcntl(handle, fcntl.F_FULLFSYNC)  # fsync alone leaves the data in the drive's own cache there
    finally:
        os.close(handle)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
    finally:
        os.close(handle)
