"""The process that computes: `python -m mlx_ltxw.studio.worker FOLDER`. Jobs come in as JSON lines, events go out.

It is a process of its own because MLX computes in the main thread only, so that a server that is killed loses nothing,
and so that a job that runs away takes no page with it. It ends with the server: a thread waits for the end of standard
input, which the system closes whatever ends the server.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import locked_folder
from mlx_ltxw.gpu_errors import explained
from mlx_ltxw.machine import settle
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.place import Place
from mlx_ltxw.studio.wording import worded_error
from mlx_ltxw.studio.work import work_of

_PATIENCE = 30.0
"""Seconds that the worker of a server before this one may take to end."""
_GRACE = {"train": 600.0}
"""Kind of job -> seconds that it gets to save its step when the server is gone; others keep theirs as they go."""


class Orders:
    """What the server says, read in a thread of its own.

    Attributes:
        jobs: To be done, one after another.
        over: Whether the server is gone, or ends.
    """

    def __init__(self, source: TextIO) -> None:
        self.jobs: queue.Queue[dict[str, Any]] = queue.Queue()
        self.over = False
        self._kind = ""
        self._idle = threading.Event()
        self._idle.set()
        self._cancelled: set[int] = set()
        threading.Thread(target=self._read, args=(source,), daemon=True).start()

    def cancelled(self, job: int) -> bool:
        """Whether a job is to end: it is wanted no more, or goes on with another server."""
        return self.over or job in self._cancelled

    @contextmanager
    def at_work(self, kind: str) -> Iterator[None]:
        """While a job of this kind is done."""
        self._kind = kind
        self._idle.clear()
        try:
            yield
        finally:
            self._idle.set()

    def _read(self, source: TextIO) -> None:
        try:
            for line in source:
                order = json.loads(line)
                if order["do"] == "cancel":
                    self._cancelled.add(order["job"])
                else:
                    self._cancelled.discard(order["job"])  # it may be taken up again
                    self.jobs.put(order)
        finally:
            self.over = True
            self._idle.wait(_GRACE.get(self._kind, 0.0))
            os._exit(0)  # files are whole or not there, and steps are kept as they are made


def main() -> None:
    """Does jobs until the server ends."""
    out = private_stdout()
    settle()
    orders = Orders(sys.stdin)
    folder = StudioFolder(Path(sys.argv[1]))
    with _alone(folder):
        work_of("clip")  # loads MLX before the first click
        say(out, event="ready")
        while True:
            _do(orders.jobs.get(), orders, folder, out)


def _do(order: dict[str, Any], orders: Orders, folder: StudioFolder, out: TextIO) -> None:
    """One job, and how it ended."""
    job = int(order["job"])

    def tell(event: str, /, **values: Any) -> None:
        with suppress(BrokenPipeError):  # the server is gone
            say(out, event=event, job=job, **values)

    with orders.at_work(order["kind"]):
        try:
            place = Place(job, folder, bool(order["again"]))
            work_of(order["kind"])(order["asked"], place, tell, lambda: orders.cancelled(job))
        except Exception as error:
            tell("failed", **reason(error))
        else:
            if not orders.over:  # else it is not cancelled: the next server goes on with it
                tell("cancelled" if orders.cancelled(job) else "done")


def private_stdout() -> TextIO:
    """Standard output, for our own lines alone: what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def say(out: TextIO, **values: Any) -> None:
    """One line of JSON, at once."""
    out.write(json.dumps(values) + "\n")
    out.flush()


def reason(error: Exception) -> dict[str, Any]:
    """Why something cannot be, for the page; what is nobody's mistake goes to the log with its traceback."""
    told = error if isinstance(error, UserError) else explained(error)
    if told is None:
        import traceback

        traceback.print_exception(error)
        return {"message": f"{type(error).__name__}: {error}", "hint": ""}
    told = worded_error(told)
    return {"message": told.message, "hint": told.hint}


def _alone(folder: StudioFolder) -> ExitStack:
    """The lock of the worker; one whose server was killed has it until it has noticed."""
    held, until = ExitStack(), time.monotonic() + _PATIENCE
    while True:
        try:
            held.enter_context(locked_folder(folder.takes, "studio worker", folder.path / "worker.lock"))
        except UserError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return held


if __name__ == "__main__":
    main()
