"""Work of a library that is waited for in another thread, so that Ctrl-C comes out of the wait at once.

Its own threads, which a pool waits for at its end, would hold the interruption up until a file of 20 GB is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class NobodyWaits(Exception):
    """What ends work that nobody waits for any more, where it asks."""


def waited_for(work: Callable[[Callable[[], None]], T]) -> T:
    """Calls work in a thread of its own and waits for it.

    Args:
        work: Gets a function that it calls now and then, which raises `NobodyWaits` once nobody waits any more.

    Raises:
        BaseException: what the work raises, or the interruption of the wait.
    """
    done, left = threading.Event(), threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def check() -> None:
        if left.is_set():
            raise NobodyWaits

    def run() -> None:
        try:
            results.append(work(check))
        except BaseException as error:  # told to whoever waits
            errors.append(error)
        finally:
            done.set()

    try:
        threading.Thread(target=run).start()
        done.wait()
    except BaseException:
        left.set()
        raise
    if errors:
        raise errors[0]
    return results[0]


def bars(check: Callable[[], None]) -> Any:
    """A class of the Hub's progress bars whose updates ask `check`, shown or not."""
    from huggingface_hub.utils import tqdm

    class CheckedBar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            check()
            moved: bool | None = super().update(n)
            return moved

    return CheckedBar
