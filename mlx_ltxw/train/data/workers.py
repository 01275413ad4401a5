"""The same work on many files, by several processes where there are many files and cores.

They are Python processes of our own and not `multiprocessing`'s, which would import the user's own script again. Each
reads pickled items from its standard input and answers on its standard output; when the first process is gone,
however it ended, the input ends and so do they.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from typing import IO, Any, Protocol, TypeVar, cast

from mlx_ltxw.errors import UserError
from mlx_ltxw.heap import keep_freed_memory

LEAST = 16
"""Items for each process; with fewer, starting it takes longer than it saves."""

_MOST = 8  # processes
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_START = "import sys; sys.path[:] = {path!r}; from mlx_ltxw.train.data.workers import serve; serve()"


class Named(Protocol):
    """An item that an error can name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)
R = TypeVar("R")


def each(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """`work` of each item, in order, as they are done.

    Args:
        work: A function of a module, or a `functools.partial` of one; it, items and results can be pickled.

    Raises:
        UserError: a process was ended from outside, or its decoder crashed. And what `work` raises.
    """
    count = min(_cores(), _MOST, len(items) // LEAST)
    if count < 2 or not sys.executable:
        yield from map(work, items)
        return
    with ExitStack() as stack:
        idle: SimpleQueue[_Worker] = SimpleQueue()
        pool = stack.enter_context(ThreadPoolExecutor(count))
        for _ in range(count):
            idle.put(stack.enter_context(_Worker()))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)  # first of all when an error ends this

        def call(item: T) -> R:
            worker = idle.get()
            try:
                return worker.call(work, item)
            finally:
                idle.put(worker)

        yield from pool.map(call, items)


class _Worker:
    """One process, which ends with the `with` block."""

    def __enter__(self) -> _Worker:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | dict.fromkeys(_ONE_THREAD, "1"),
            start_new_session=True,  # Ctrl-C is for the first process alone
        )
        self._questions, self._answers = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        for pipe in (self._questions, self._answers):
            with suppress(OSError):  # what was not sent yet has no reader
                pipe.close()
        self._process.wait()

    def call(self, work: Callable[[T], R], item: T) -> R:
        try:
            pickle.dump((work, item), self._questions)
            self._questions.flush()
            answer: tuple[R, BaseException | None] = pickle.load(self._answers)
        except (OSError, EOFError, pickle.UnpicklingError) as problem:
            text = f"The process that read {item.name} was ended, or its decoder crashed."
            raise UserError(text, "Play the file in another program; leave it out if it does so again.") from problem
        result, error = answer
        if error is not None:
            raise error
        return result


def serve() -> None:
    """What a process does: answers each item with its result and what it raised."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else is to come out there
    keep_freed_memory()
    while True:
        try:
            work, item = pickle.load(questions)
        except EOFError:
            return
        result: Any = None
        error: BaseException | None = None
        try:
            result = work(item)
        except Exception as problem:
            error = problem
        try:
            pickle.dump((result, error), answers)
            answers.flush()
        except BrokenPipeError:
            return


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
