"""What a page is to the frame around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from mlx_ltxw.studio.state import Studio


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        name: In the navigation.
        path: Of its address.
        show: Builds it within the frame, from the address's query.
    """

    name: str
    path: str
    show: Callable[[Studio, Mapping[str, str]], Awaitable[None]]
