"""Ctrl-C, a terminal that is closed, and the system's request to end. Loads the standard library alone.

A signal becomes `KeyboardInterrupt` only where somebody catches it. Raised while a module is imported, it may come out
as another error of that module, or be swallowed by it; raised in a destructor or a callback it is lost, as it is where
MLX looks what kind of number it was given; and at the end it ends in a traceback. So it waits until the import is over,
is raised again until somebody handles it, and outside `caught` is only noted.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The last, of a terminal that is closed, is heard unless the process was told not to (`nohup`)."""

_AGAIN = 0.02  # seconds until a signal that waits is looked at again
_LOST = 0.005  # seconds until an interruption that nobody handles by then is raised again
_LONGEST_IMPORT = 10.0  # seconds that a signal waits for imports
_IMPORTS = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")


def caught(work: Callable[[], T]) -> T:
    """Calls `work`, from which `KeyboardInterrupt` may come; the caller catches it.

    Under a call of this, `on_signals` hands signals over; beside it, within the same `guarded`, it does not.
    """
    return work()


_guarded = False


@contextmanager
def guarded() -> Iterator[None]:
    """Signals are handed over only under `caught`; those that come before wait for it. Lost interruptions come back."""
    global _guarded
    before, hook = _guarded, sys.unraisablehook

    def unraisable(lost: sys.UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            hook(lost)
        elif _handlers:
            _wait(_handlers[-1])

    _guarded, sys.unraisablehook = True, unraisable
    try:
        yield
    finally:
        _guarded, sys.unraisablehook = before, hook


@contextmanager
def on_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Calls `handle` with the number of each of `SIGNALS` that comes; what was done before is done afterwards.

    A signal that comes while a module is imported is handed over after that. Only a process's main thread may say so:
    in another thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = _Handler(handle)
    try:
        for number in handler.before:
            signal.signal(number, handler)
        _handlers.append(handler)
        yield
    finally:
        handler.ended = True
        if handler in _handlers:
            _handlers.remove(handler)
        for number, earlier in handler.before.items():
            signal.signal(number, earlier)
        if not _handlers:
            signal.setitimer(signal.ITIMER_REAL, 0)


class _Handler:
    """Hands signals over when it is time.

    Attributes:
        before: What was done on each signal before.
        ended: Whether that is done again.
    """

    def __init__(self, handle: Callable[[int], None]) -> None:
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self.before = {
            number: earlier
            for number, earlier in before.items()
            if number != signal.SIGHUP or earlier is not signal.SIG_IGN
        }
        self.ended = False
        self._handle = handle
        self._last: int = signal.SIGINT
        self._since: float | None = None
        self._raised = False  # an interruption of which nobody knows yet whether it arrives

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._last, self._raised = number, False
        self.again(frame)

    def again(self, frame: FrameType | None) -> None:
        """Hands the last signal over, or waits; once more where the interruption that came of it was lost."""
        if self._raised and self.ended:
            return
        if self._raised and _is_handled():
            _wait(self)
            return
        if self.ended:
            earlier = self.before[signal.Signals(self._last)]
            if callable(earlier):
                earlier(self._last, frame)
            return
        number = self._replaced()
        if number is not None:
            self._since = None
            signal.raise_signal(number)
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        inside, imports = _where(frame)
        if (_guarded and not inside) or (imports and now - self._since < _LONGEST_IMPORT):
            _wait(self)
            return
        self._since = None
        if "asyncio" not in sys.modules:  # a server ends its tasks in its own time
            self._raised = True
            _wait(self, _LOST)
        self._handle(self._last)
        if self._raised:
            self._raised = False
            _waiting.clear()

    def _replaced(self) -> int | None:
        """The signal to raise where somebody else handles the last one by now: a server, say, which ends for a closed
        terminal as it does for the system's request."""
        asked = signal.SIGTERM if self._last == signal.SIGHUP else self._last
        return asked if signal.getsignal(asked) is not self else None


_handlers: list[_Handler] = []
_waiting: list[_Handler] = []


def _where(frame: FrameType | None) -> tuple[bool, bool]:
    """Whether a frame lies under `caught`, and whether it imports a module there."""
    imports = False
    while frame is not None:
        if frame.f_code is caught.__code__:
            return True, imports
        imports = imports or frame.f_code.co_filename in _IMPORTS
        frame = frame.f_back
    return False, imports


def _is_handled() -> bool:
    """Whether an interruption is on its way up: somebody is cleaning up after it."""
    errors, seen = [sys.exc_info()[1]], set()
    while errors:
        error = errors.pop()
        if error is None or id(error) in seen:
            continue
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        errors += [error.__context__, error.__cause__]
    return False


def _wait(handler: _Handler, seconds: float = _AGAIN) -> None:
    """Comes back to a signal a little later, whatever the process does then."""
    _waiting[:] = [handler]
    signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _alarm(number: int, frame: FrameType | None) -> None:
    if _waiting:
        _waiting.pop().again(frame)
