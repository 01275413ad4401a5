"""Tensor names, for people."""

from __future__ import annotations

import re
from collections.abc import Iterable

_DIGITS = re.compile(r"(\d+)")
_INDEX = re.compile(r"(?<=\.)\d+(?=\.)")


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting key that puts `blocks.2` before `blocks.10`."""
    parts = _DIGITS.split(name)
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)


def grouped(names: Iterable[str]) -> list[str]:
    """One line for all names that differ in their layer numbers only, with their count if there are several."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_INDEX.sub("*", name), []).append(name)
    return [
        members[0] if len(members) == 1 else f"{pattern} ({len(members)} tensors)"
        for pattern, members in groups.items()
    ]
