"""Where the studio keeps what it makes: one folder, which one server has at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import locked_folder, sweep, write_errors

DEFAULT = Path("~/mlx-ltxw-studio")
_JOB = re.compile(r"(\d{6,12})\b")
_NAME = re.compile(r"[\w-][\w.-]{0,120}")


@dataclass(frozen=True)
class StudioFolder:
    """The studio's folder.

    Attributes:
        path: Absolute.
    """

    path: Path

    @classmethod
    def open(cls, path: Path) -> StudioFolder:
        """Makes what is missing of it; only its owner may look in.

        Raises:
            UserError: it cannot be written.
        """
        path = Path(os.path.abspath(path.expanduser()))
        with write_errors(path):
            for folder in (path, path / "takes", path / "uploads", path / "cache", path / "runs"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (path / "takes", path / "uploads", path / "cache"):
            sweep(folder)
        return cls(path)

    @property
    def database(self) -> Path:
        return self.path / "studio.db"

    @property
    def takes(self) -> Path:
        """Made files."""
        return self.path / "takes"

    @property
    def uploads(self) -> Path:
        """Files that were dropped on the page."""
        return self.path / "uploads"

    @property
    def cache(self) -> Path:
        """What is made of the others, and can be made again."""
        return self.path / "cache"

    @property
    def runs(self) -> Path:
        """Training runs, a folder each."""
        return self.path / "runs"

    def output(self, job: int, sound_alone: bool) -> Path:
        """The main file of a job; several clips of it get endings of their own."""
        return self.takes / f"{job:06d}{'.wav' if sound_alone else '.mp4'}"

    def last_job(self) -> int:
        """The largest number that a file among the takes is named by; 0 for none."""
        numbers = [_JOB.match(path.name) for path in self.takes.iterdir()]
        return max((int(found[1]) for found in numbers if found), default=0)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other servers out.

        Raises:
            UserError: one is here already.
        """
        with locked_folder(self.path, "studio"):
            yield


def plain_name(folder: Path, name: str) -> Path:
    """A file that lies in a folder itself.

    Raises:
        UserError: the name leads elsewhere, or the file is a link.
    """
    path = folder / name
    if not _NAME.fullmatch(name) or path.is_symlink():
        raise UserError(f"{name!r} is no file of the studio.", "Take one that the page lists.")
    return path
