"""News for the pages that are open: what happens to jobs and takes, told to each as it happens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

News = dict[str, Any]
Follower = Callable[[News], object]
logger = logging.getLogger(__name__)


class Hub:
    """Hands news on to whoever follows. All in one thread; nobody polls."""

    def __init__(self) -> None:
        self._followers: list[Follower] = []

    def follow(self, follower: Follower) -> Callable[[], None]:
        """Gets all news from now on; the result ends that."""
        self._followers.append(follower)

        def end() -> None:
            if follower in self._followers:
                self._followers.remove(follower)

        return end

    def tell(self, event: str, **values: Any) -> None:
        """Hands news on; a follower that fails is left out, and the others hear it all the same."""
        for follower in [*self._followers]:
            try:
                follower({"event": event, **values})
            except Exception:
                logger.exception("A page could not show %s", event)
