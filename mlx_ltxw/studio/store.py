"""What the studio remembers: jobs, takes, uploads and settings, in one SQLite file.

Every change is one transaction, written through to the disk before the call returns (write-ahead log, `synchronous =
FULL`), so a server that is killed at any moment has lost nothing that it told anybody.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_ltxw.errors import UserError

JobState = Literal["waiting", "running", "done", "failed", "cancelled"]
VERSION = 1
_DISK = "Free some space on that disk, see that it is sound and may be written to"
_SCHEMA = """
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL,
  started REAL, ended REAL, title TEXT NOT NULL, asked TEXT NOT NULL, message TEXT NOT NULL DEFAULT '',
  tries INTEGER NOT NULL DEFAULT 0, work REAL,
  seen INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jobs_state ON jobs (state, id);
CREATE TABLE takes (
  id INTEGER PRIMARY KEY AUTOINCREMENT, job INTEGER REFERENCES jobs (id), created REAL NOT NULL,
  file TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, seed TEXT NOT NULL, number INTEGER, prompt TEXT NOT NULL,
  asked_register TEXT, record TEXT NOT NULL, model TEXT, seconds REAL NOT NULL, has_picture INTEGER NOT NULL,
  register TEXT, confidence REAL, lufs REAL, voiced REAL, stars INTEGER NOT NULL DEFAULT 0,
  note TEXT NOT NULL DEFAULT '', deleted_at REAL
);
CREATE INDEX takes_seen ON takes (deleted_at, id);
CREATE TABLE uploads (
  id INTEGER PRIMARY KEY AUTOINCREMENT, created REAL NOT NULL, file TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
  kind TEXT NOT NULL, bytes INTEGER NOT NULL
);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class StudioJob:
    """Something to be made.

    Attributes:
        id: Its number; jobs run in this order.
        kind: `clip`, `script` or `train` (`mlx_ltxw.studio.work`).
        state: `waiting`, `running`, `done`, `failed` or `cancelled`.
        created, started, ended: Seconds since 1970.
        title: For the list.
        asked: What its kind needs, as JSON has it.
        message: Why it failed; else nothing.
        tries: How often a worker began it.
        work: How much there is to compute (`answers.plan_asked`); None where that is not known.
        seen: Whether its end need not be told any more.
    """

    id: int
    kind: str
    state: JobState
    created: float
    started: float | None
    ended: float | None
    title: str
    asked: dict[str, Any]
    message: str
    tries: int
    work: float | None
    seen: int


@dataclass(frozen=True)
class KeptTake:
    """A made file.

    Attributes:
        id: Its number, which is all that a page needs to name it.
        job: That made it; None for one that was brought along.
        created: Seconds since 1970.
        file: Its name in the folder of takes.
        kind: `clip`, `script` or `sample`.
        seed: Of its noise.
        number: Of the take on a shared picture, from 1; None for a clip of one sound.
        prompt: What is seen and said; a script's parts a line each.
        asked_register: `whispering`, `soft` or `normal`; None where the request does not say.
        record: What the file says of itself (`mlx_ltxw.takes.record`).
        model: As the request named it; None for the built-in one.
        seconds: Its length.
        has_picture: Whether it is an mp4.
        register, confidence, lufs, voiced: Measured; None of what was not.
        stars: 0 to 5.
        note: The listener's.
        deleted_at: Seconds since 1970; None while it is there.
    """

    id: int
    job: int | None
    created: float
    file: str
    kind: str
    seed: int
    number: int | None
    prompt: str
    asked_register: str | None
    record: dict[str, Any]
    model: str | None
    seconds: float
    has_picture: bool
    register: str | None
    confidence: float | None
    lufs: float | None
    voiced: float | None
    stars: int
    note: str
    deleted_at: float | None


@dataclass(frozen=True)
class KeptUpload:
    """A file that was dropped on the page.

    Attributes:
        id: Its number.
        created: Seconds since 1970.
        file: Its name in the folder of uploads, which the studio chose.
        name: As it was called where it came from; to be shown, never opened.
        kind: `image`, `sound` or `video`.
        bytes: Its size.
    """

    id: int
    created: float
    file: str
    name: str
    kind: str
    bytes: int


class Store:
    """The database. All calls come from one thread, and take about a millisecond.

    Args:
        path: The file; made if need be.

    Raises:
        UserError: it is of a later version, or no database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._open(path)
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{path} cannot be used: {error}.", f"{_DISK}, or give another {{field:folder}}."
            ) from error
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{path} cannot be used: {error}.", "Move it away, or give another {field:folder}."
            ) from error

    def close(self) -> None:
        """Lets the file go."""
        self._db.close()

    def _open(self, path: Path) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise UserError(f"{path} was written by a later version of mlx-ltxw.", "Update mlx-ltxw.")
        if version < VERSION:
            with self._change():
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _change(self) -> Iterator[None]:
        """One transaction; one that the disk does not take is as if it had never been.

        Raises:
            UserError: the disk does not take it.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise UserError(f"{self._path} could not be written: {error}.", f"{_DISK}.") from error
        finally:
            if self._db.in_transaction:  # SQLite ends some that failed by itself, and leaves others open
                self._db.execute("ROLLBACK")

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        return self._db.execute(query, values).fetchall()

    # Jobs

    def begin_jobs_after(self, number: int) -> None:
        """Gives new jobs larger numbers: of a database that is newer than the files beside it."""
        with self._change():
            last = self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'jobs'")
            if not last:
                self._db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('jobs', ?)", (number,))
            elif last[0][0] < number:
                self._db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'jobs'", (number,))

    def add_job(self, kind: str, title: str, asked: Mapping[str, Any], work: float | None = None) -> int:
        """Puts a job at the end of the queue; its number."""
        query = "INSERT INTO jobs (kind, state, created, title, asked, work) VALUES (?, 'waiting', ?, ?, ?, ?)"
        with self._change():
            cursor = self._db.execute(query, (kind, time.time(), title, json.dumps(asked), work))
            return int(cursor.lastrowid or 0)

    def job(self, number: int) -> StudioJob | None:
        """A job by its number."""
        return next(map(_job, self._rows("SELECT * FROM jobs WHERE id = ?", number)), None)

    def next_job(self) -> StudioJob | None:
        """The one that has waited longest."""
        return next(map(_job, self._rows("SELECT * FROM jobs WHERE state = 'waiting' ORDER BY id LIMIT 1")), None)

    def open_jobs(self) -> list[StudioJob]:
        """What runs, and what waits."""
        return [*map(_job, self._rows("SELECT * FROM jobs WHERE state IN ('running', 'waiting') ORDER BY id"))]

    def last_jobs(self, limit: int) -> list[StudioJob]:
        """What has ended and was not dismissed, the last first."""
        query = "SELECT * FROM jobs WHERE state NOT IN ('running', 'waiting') AND NOT seen ORDER BY ended DESC LIMIT ?"
        return [*map(_job, self._rows(query, limit))]

    def dismiss_job(self, number: int) -> None:
        """Marks the end of a job as seen."""
        with self._change():
            self._db.execute("UPDATE jobs SET seen = 1 WHERE id = ?", (number,))

    def begin_job(self, number: int) -> None:
        """Marks a job as running."""
        with self._change():
            self._db.execute(
                "UPDATE jobs SET state = 'running', started = ?, tries = tries + 1 WHERE id = ?",
                (time.time(), number),
            )

    def end_job(self, number: int, state: JobState, message: str = "") -> None:
        """Marks a job as ended, or as waiting again."""
        ended = None if state == "waiting" else time.time()
        with self._change():
            self._db.execute(
                "UPDATE jobs SET state = ?, ended = ?, message = ? WHERE id = ?", (state, ended, message, number)
            )

    # Takes

    def add_take(self, take: Mapping[str, Any]) -> int:
        """Remembers a made file; its number. One that is known by its name stays as it is.

        Args:
            take: Fields of `KeptTake`; `created`, `stars`, `note` may be left out.
        """
        texts = {"record": json.dumps(take["record"]), "seed": str(take["seed"])}  # SQLite's numbers have 63 bits
        values = {"created": time.time(), **take, **texts}
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        with self._change():
            self._db.execute(f"INSERT OR IGNORE INTO takes ({names}) VALUES ({marks})", tuple(values.values()))
            return int(self._db.execute("SELECT id FROM takes WHERE file = ?", (values["file"],)).fetchone()[0])

    def take(self, number: int) -> KeptTake | None:
        """A take by its number, also one that is deleted and not yet gone."""
        return next(map(_take, self._rows("SELECT * FROM takes WHERE id = ?", number)), None)

    def takes(
        self, search: str = "", *, starred: bool = False, job: int | None = None, before: int | None = None,
        limit: int = 50,
    ) -> list[KeptTake]:  # fmt: skip
        """Takes that are not deleted, the last first.

        Args:
            search: Words that all stand in the prompt, the note, the register or the file's name.
            starred: Only those with a star.
            job: Only those of one job.
            before: Only those with a smaller number.
            limit: How many at most.
        """
        where, values = ["deleted_at IS NULL"], list[Any]()
        for word in search.split()[:20]:
            where.append("(prompt || ' ' || note || ' ' || coalesce(register, '') || ' ' || file) LIKE ? ESCAPE '\\'")
            values.append(f"%{_escaped(word)}%")
        where += ["stars > 0"] if starred else []
        for column, sign, value in (("job", "=", job), ("id", "<", before)):
            if value is not None:
                where.append(f"{column} {sign} ?")
                values.append(value)
        query = f"SELECT * FROM takes WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?"
        return [*map(_take, self._rows(query, *values, limit))]

    def deleted_takes(self, limit: int) -> list[KeptTake]:
        """Those that can still be had back, the last deleted first."""
        query = "SELECT * FROM takes WHERE deleted_at IS NOT NULL ORDER BY deleted_at DESC LIMIT ?"
        return [*map(_take, self._rows(query, limit))]

    def count_takes(self) -> int:
        """How many there are, less those deleted."""
        return int(self._rows("SELECT count(*) FROM takes WHERE deleted_at IS NULL")[0][0])

    def update_take(self, number: int, *, stars: int | None = None, note: str | None = None) -> None:
        """Changes what the listener said of a take."""
        with self._change():
            if stars is not None:
                self._db.execute("UPDATE takes SET stars = ? WHERE id = ?", (max(0, min(5, stars)), number))
            if note is not None:
                self._db.execute("UPDATE takes SET note = ? WHERE id = ?", (note[:4000], number))

    def delete_take(self, number: int) -> None:
        """Takes it off every list; its files stay until `forget_deleted`."""
        with self._change():
            self._db.execute("UPDATE takes SET deleted_at = ? WHERE id = ?", (time.time(), number))

    def restore_take(self, number: int) -> None:
        """Undoes `delete_take`."""
        with self._change():
            self._db.execute("UPDATE takes SET deleted_at = NULL WHERE id = ?", (number,))

    def forget_deleted(self, before: float) -> list[str]:
        """Forgets takes that were deleted before a time; the names of their files."""
        with self._change():
            rows = self._rows("SELECT file FROM takes WHERE deleted_at < ?", before)
            self._db.execute("DELETE FROM takes WHERE deleted_at < ?", (before,))
        return [str(row["file"]) for row in rows]

    # Uploads and settings

    def add_upload(self, file: str, name: str, kind: str, size: int) -> int:
        """Remembers a file that was dropped; its number."""
        with self._change():
            cursor = self._db.execute(
                "INSERT INTO uploads (created, file, name, kind, bytes) VALUES (?, ?, ?, ?, ?)",
                (time.time(), file, name[:255], kind, size),
            )
            return int(cursor.lastrowid or 0)

    def upload(self, number: int) -> KeptUpload | None:
        """An upload by its number."""
        return next((KeptUpload(**dict(row)) for row in self._rows("SELECT * FROM uploads WHERE id = ?", number)), None)

    def uploads_size(self) -> tuple[int, int]:
        """How many uploads there are, and their bytes."""
        row = self._rows("SELECT count(*), coalesce(sum(bytes), 0) FROM uploads")[0]
        return int(row[0]), int(row[1])

    def setting(self, name: str, default: str = "") -> str:
        """A setting of the page."""
        rows = self._rows("SELECT value FROM settings WHERE name = ?", name)
        return str(rows[0][0]) if rows else default

    def set_setting(self, name: str, value: str) -> None:
        """Keeps a setting of the page."""
        with self._change():
            self._db.execute("INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)", (name, value))


def _job(row: sqlite3.Row) -> StudioJob:
    return StudioJob(**{**dict(row), "asked": json.loads(row["asked"])})


def _take(row: sqlite3.Row) -> KeptTake:
    read = {"record": json.loads(row["record"]), "has_picture": bool(row["has_picture"]), "seed": int(row["seed"])}
    return KeptTake(**{**dict(row), **read})


def _escaped(word: str) -> str:
    return word.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
