"""Ctrl-C and the system's request to end. Loads the standard library alone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def on_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Calls `handle` with the number of each SIGINT and SIGTERM that comes; what was done before is done afterwards.

    Only a process's main thread may say so: in another thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def called(number: int, frame: Any) -> None:
        handle(number)

    before = {number: signal.signal(number, called) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
