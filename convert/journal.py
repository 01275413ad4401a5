"""Remembers which files of an unfinished conversion are whole, so that a run cut at any moment continues."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import locked_folder, read_errors, read_text, write_text
from mlx_ltxw.parsing import build, parse_json
from mlx_ltxw.paths import inside
from mlx_ltxw.weights.manifest import NAME as MANIFEST
from mlx_ltxw.weights.manifest import WORK, FileRecord

_OF_FINDER = {".DS_Store", ".localized"}  # what macOS writes into folders that are looked at, and `._NAME` beside
_SAMPLES, _SAMPLE = 64, 1 << 16  # places of a source file that are looked at again, and bytes at each


@dataclass(frozen=True)
class SourceRecord:
    """A source file as it was when it was hashed.

    Attributes:
        size: Bytes.
        stamps: Its times of change in ns (of content and of the entry itself, which no tool sets) and its inode.
        sample: sha256 of its beginning, its end and places between.
        sha256: Of all of it.
    """

    size: int
    stamps: tuple[int, int, int]
    sample: str
    sha256: str

    @classmethod
    def of(cls, path: Path, sha256: str) -> SourceRecord:
        """Of a file whose hash is known."""
        with read_errors(path):
            found = path.stat()
            stamps = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            return cls(found.st_size, stamps, _sampled(path, found.st_size), sha256)

    def holds(self, path: Path) -> bool:
        """Whether the file is still that one, as far as can be told without reading all of it."""
        return self == SourceRecord.of(path, self.sha256)


def _sampled(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for index in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE) * index // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


@dataclass(frozen=True)
class _State:
    """What stands in `journal.json`."""

    fingerprint: str
    planned: list[str]
    files: dict[str, FileRecord]
    sources: dict[str, SourceRecord]


class Journal:
    """The state of one conversion, on disk at every moment.

    Attributes:
        directory: The model directory.
        fingerprint: Of the plan and sources that the finished files belong to; '' before the first.
        planned: Every file that the conversion writes; these may be replaced or removed.
        files: Those that are whole, with their sizes and hashes.
        sources: What is known of the source files, by role and name.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fingerprint = ""
        self.planned: list[str] = []
        self.files: dict[str, FileRecord] = {}
        self.sources: dict[str, SourceRecord] = {}
        self._lock = ExitStack()

    @classmethod
    def open(cls, directory: Path) -> Journal:
        """Creates or continues a conversion in `directory`, alone.

        Raises:
            UserError: the directory holds something else, or another process converts into it.
        """
        if directory.exists() and not directory.is_dir():
            raise UserError(f"{directory} is a file.", "Name a new directory with -o.")
        work = directory / WORK
        names = [path.name for path in directory.iterdir()] if directory.exists() else []
        others = [name for name in names if name != WORK and name not in _OF_FINDER and not name.startswith("._")]
        if others and not work.is_dir() and MANIFEST not in others:
            raise UserError(
                f"{directory} holds other files, such as {sorted(others)[0]}.", "Name a new or empty directory with -o."
            )
        journal = cls(directory)
        journal._lock.enter_context(locked_folder(directory, "conversion", work / "lock"))
        journal._read()
        return journal

    def restart(self, fingerprint: str, planned: Iterable[str]) -> None:
        """Removes what an earlier plan wrote, and starts the new one."""
        for name in self.planned:
            path = inside(self.directory, name)
            if path.parent.resolve().is_relative_to(self.directory.resolve()):  # not through a link to elsewhere
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
            "sources": {name: asdict(record) for name, record in self.sources.items()},
        }
        write_text(self.directory / WORK / "journal.json", json.dumps(state, indent=1))

    def remove(self) -> None:
        """Ends the conversion: the manifest is written."""
        self.close()
        shutil.rmtree(self.directory / WORK)

    def close(self) -> None:
        """Lets another process continue."""
        self._lock.close()

    def _read(self) -> None:
        path = self.directory / WORK / "journal.json"
        if not path.exists():
            return
        hint = f"Delete {self.directory} and convert again."
        state = build(_State, parse_json(read_text(path), str(path), hint), str(path), hint)
        for name in (*state.planned, *state.files):
            inside(self.directory, name)
        self.fingerprint, self.planned, self.sources = state.fingerprint, state.planned, state.sources
        self.files = state.files
