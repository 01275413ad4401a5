"""What a job of the worker is given: where it works, and how it tells of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from mlx_ltxw.studio.folder import StudioFolder


class TellServer(Protocol):
    """Sends an event to the server; values are JSON."""

    def __call__(self, event: str, /, **values: Any) -> None: ...


@dataclass(frozen=True)
class Place:
    """Where a job works.

    Attributes:
        job: Its number.
        folder: The studio's.
        again: Whether it was begun before, and may have left something.
    """

    job: int
    folder: StudioFolder
    again: bool


DoWork = Callable[[dict[str, Any], Place, TellServer, Callable[[], bool]], None]
"""`work(asked, place, tell, cancelled)`: does a job to its end, or ends early once `cancelled()` is true, which it asks
between its steps. A `UserError` is told to the user; what it has told as `written` stays."""
