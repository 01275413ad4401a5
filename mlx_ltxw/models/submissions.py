"""Work handed to the device in pieces, with a bound on what is unfinished."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import mlx.core as mx


class Submissions:
    """Hands work to the device in pieces.

    Args:
        every: Pieces that go together in one submission; 0: nothing is submitted.
        window: How many submissions may be unfinished; None for any number.
        finished: Called when one is.
    """

    def __init__(self, every: int, window: int | None, finished: Callable[[], None] = lambda: None) -> None:
        self.every, self.window, self._finished = every, window, finished
        self._pieces = 0
        self._unfinished: deque[Any] = deque()

    def add(self, piece: Any) -> None:
        """Takes the arrays (a tree of them) that complete a piece of work."""
        self._pieces += 1
        if not self.every or self._pieces % self.every:
            return
        mx.async_eval(piece)
        if self.window is None:
            return
        self._unfinished.append(piece)
        while len(self._unfinished) > self.window:
            mx.eval(self._unfinished.popleft())
            self._finished()
