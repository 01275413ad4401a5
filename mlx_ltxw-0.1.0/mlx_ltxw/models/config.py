"""Reads one section of a checkpoint's own `config`, strictly.

Every architecture number comes from the checkpoint: several code defaults of the official loader differ from the values
that LTX-2.3 ships (the audio-video timestep multiplier is 1 there and 1000 in the file), so a missing key is an error
that names it, never a silent default.
"""

from __future__ import annotations

import logging
from typing import Any

from mlx_ltxw.errors import UserError

logger = logging.getLogger(__name__)
_ABSENT: Any = object()


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
        self.seen: set[str] = set()

    def take(self, key: str, default: Any = _ABSENT) -> Any:
        """The value of `key`; `default` only where the official loader has one and LTX-2.3 leaves the key out."""
        self.seen.add(key)
        if key in self.values:
            return self.values[key]
        if default is _ABSENT:
            raise UserError(
                f"The checkpoint's config lacks '{self.name}.{key}'.",
                "Use the config that ships inside the LTX-2.3 checkpoint; its numbers are never guessed.",
            )
        return default

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
        unknown = sorted(set(self.values) - self.seen - set(ignored))
        if unknown:
            logger.warning("config section '%s': unknown keys %s have no effect", self.name, ", ".join(unknown))
        return unknown
