"""Remembers which files of an unfinished conversion are whole, so that a run cut at any moment continues."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import write_text
from mlx_ltxw.weights.manifest import NAME as MANIFEST
from mlx_ltxw.weights.manifest import FileRecord

WORK = ".convert"
"""Folder inside an unfinished model directory; it goes when the manifest is written."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}  # some network file systems; two runs are the user's care there


class Journal:
    """The state of one conversion, on disk at every moment.

    Attributes:
        directory: The model directory.
        fingerprint: Of the plan and sources that the finished files belong to; '' before the first.
        planned: Every file that the conversion writes; these may be replaced or removed.
        files: Those that are whole, with their sizes and hashes.
        sources: Hashes of source files: name -> [size, mtime in ns, sha256].
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fingerprint = ""
        self.planned: list[str] = []
        self.files: dict[str, FileRecord] = {}
        self.sources: dict[str, list[Any]] = {}
        self._lock: Any = None

    @classmethod
    def open(cls, directory: Path) -> Journal:
        """Creates or continues a conversion in `directory`, alone.

        Raises:
            UserError: the directory holds something else, or another process converts into it.
        """
        if directory.exists() and not directory.is_dir():
            raise UserError(f"{directory} is a file.", "Name a new directory with -o.")
        work = directory / WORK
        others = [p.name for p in directory.iterdir() if p.name != WORK] if directory.exists() else []
        if others and not work.is_dir() and MANIFEST not in others:
            raise UserError(
                f"{directory} holds other files, such as {sorted(others)[0]}.", "Name a new or empty directory with -o."
            )
        work.mkdir(parents=True, exist_ok=True)
        journal = cls(directory)
        journal._lock = (work / "lock").open("w")
        try:
            fcntl.flock(journal._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"Another conversion into {directory} is running.", "Wait for it, or stop it.") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        journal._read()
        return journal

    def restart(self, fingerprint: str, planned: Iterable[str]) -> None:
        """Removes what an earlier plan wrote, and starts the new one."""
        for name in self.planned:
            for path in (self.directory / name, self.directory / f"{name}.part"):
                path.unlink(missing_ok=True)
        self.fingerprint, self.planned, self.files = fingerprint, sorted(planned), {}
        self.save()

    def finished(self, name: str) -> bool:
        """Whether a file is whole and still there."""
        path, record = self.directory / name, self.files.get(name)
        return record is not None and path.is_file() and path.stat().st_size == record.size

    def save(self) -> None:
        """Writes the state, atomically."""
        state = {
            "fingerprint": self.fingerprint,
            "planned": self.planned,
            "files": {name: asdict(record) for name, record in self.files.items()},
            "sources": self.sources,
        }
        write_text(self.directory / WORK / "journal.json", json.dumps(state, indent=1))

    def remove(self) -> None:
        """Ends the conversion: the manifest is written."""
        self.close()
        shutil.rmtree(self.directory / WORK)

    def close(self) -> None:
        """Lets another process continue."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def _read(self) -> None:
        path = self.directory / WORK / "journal.json"
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            self.fingerprint, self.planned, self.sources = state["fingerprint"], state["planned"], state["sources"]
            self.files = {name: FileRecord(**record) for name, record in state["files"].items()}
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}).", f"Delete {self.directory} and convert again.") from error
