"""Reads one section of a checkpoint's own `config`, strictly.

Every architecture number comes from the checkpoint: several code defaults of the official loader differ from the values
that LTX-2.3 ships (the audio-video timestep multiplier is 1 there and 1000 in the file), so a missing key is an error
that names it, never a silent default.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from mlx_ltxw.errors import UserError

logger = logging.getLogger(__name__)
_ABSENT: Any = object()

LARGEST = 1 << 17
"""The largest width, rate or number of taps that is believed."""

DEEPEST = 1000
"""The largest number of layers."""

LONGEST = 100
"""The most entries of a list of numbers or blocks."""


class Section:
    """One `config` section; remembers which keys were read.

    Args:
        values: The parsed JSON object.
        name: Its path in the config, for messages (`transformer`, `vocoder.bwe`).
    """

    def __init__(self, values: Any, name: str) -> None:
        if not isinstance(values, dict):
            raise UserError(
                f"The checkpoint's config has no section '{name}'.",
                "Use an LTX-2.3 checkpoint that carries its config in the safetensors metadata.",
            )
        self.values = values
        self.name = name
        self.taken: set[str] = set()

    def take(self, key: str, default: Any = _ABSENT) -> Any:
        """The value of `key`; `default` only where the official loader has one and LTX-2.3 leaves the key out."""
        self.taken.add(key)
        if key in self.values:
            return self.values[key]
        if default is _ABSENT:
            raise UserError(
                f"The checkpoint's config lacks '{self.name}.{key}'.",
                "Use the config that ships inside the LTX-2.3 checkpoint; its numbers are never guessed.",
            )
        return default

    def count(self, key: str, default: Any = _ABSENT, most: int = LARGEST) -> int:
        """A whole number from 1 to `most`: a width, a number of layers; anything else is no such network's."""
        value = self.take(key, default)
        if type(value) is not int or not 1 <= value <= most:
            raise self._refused(key, value, f"Only whole numbers from 1 to {most:,} are")
        return value

    def counts(self, key: str, most: int = LARGEST) -> tuple[int, ...]:
        """A list of such numbers."""
        values = self.take(key)
        if not isinstance(values, list | tuple) or not 1 <= len(values) <= LONGEST:
            raise self._refused(key, values, "Only a list of numbers is")
        for value in values:
            if type(value) is not int or not 1 <= value <= most:
                raise self._refused(key, value, f"Only whole numbers from 1 to {most:,} are")
        return tuple(values)

    def number(self, key: str, default: Any = _ABSENT) -> float:
        """A finite number above 0."""
        value = self.take(key, default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise self._refused(key, value, "Only numbers above 0 are")
        return value

    def flag(self, key: str, default: Any = _ABSENT) -> bool:
        """True or false."""
        value = self.take(key, default)
        if type(value) is not bool:
            raise self._refused(key, value, "Only true and false are")
        return value

    def _refused(self, key: str, value: Any, allowed: str) -> UserError:
        return UserError(
            f"The checkpoint's config sets '{self.name}.{key}' to {str(value)[:80]!r}, which LTX-2.3 never does.",
            f"{allowed} possible there; use an LTX-2.3 checkpoint with its own config.",
        )

    def expect(self, key: str, *allowed: Any) -> None:
        """Reads `key` and refuses a value this port does not implement."""
        value = self.take(key, allowed[0])
        if value not in allowed:
            choices = " or ".join(repr(a) for a in allowed)
            raise UserError(
                f"The checkpoint's config sets '{self.name}.{key}' to {value!r}, which LTX-2.3 never does.",
                f"Only {choices} is implemented; use an LTX-2.3 checkpoint.",
            )

    def section(self, key: str) -> Section:
        """The nested section `key`."""
        return Section(self.take(key), f"{self.name}.{key}")

    def finish(self, ignored: tuple[str, ...] = ()) -> list[str]:
        """Reports keys that nothing read (but for `ignored`), so that a new feature is not passed over in silence."""
        unknown = sorted(set(self.values) - self.taken - set(ignored))
        if unknown:
            logger.warning("config section '%s': unknown keys %s have no effect", self.name, ", ".join(unknown))
        return unknown
