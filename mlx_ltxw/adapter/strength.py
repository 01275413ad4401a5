"""`--adapter FILE|REPO[:STRENGTH]`: which adapter, and how strongly each of its modules acts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlx_ltxw.errors import UserError
from mlx_ltxw.parsing import finite_number


@dataclass(frozen=True)
class Strength:
    """How strongly an adapter acts.

    Attributes:
        default: For every module that `modules` does not name.
        modules: Part of a module path (`audio_attn1`, `audio_attn1.to_k`) -> strength; the longest that fits counts.
    """

    default: float = 1.0
    modules: Mapping[str, float] = field(default_factory=dict)

    def of(self, path: str) -> float:
        """For one module, by its official path."""
        fitting = [part for part in self.modules if _names(part, path)]
        return self.modules[max(fitting, key=len)] if fitting else self.default

    def check(self, paths: Iterable[str], name: str) -> None:
        """Raises UserError when a part names none of the adapter's modules."""
        paths = list(paths)
        unknown = [part for part in self.modules if not any(_names(part, path) for path in paths)]
        if unknown:
            raise UserError(
                f"The adapter '{name}' changes no module named {' or '.join(unknown)}.",
                "`mlx-ltxw inspect` lists the modules it changes.",
            )

    def __str__(self) -> str:
        parts = [f"{part}={value:g}" for part, value in self.modules.items()]
        return ",".join(([f"{self.default:g}"] if self.default != 1 or not parts else []) + parts)


def parse_strength(text: str) -> Strength:
    """Reads `0.8`, `audio_attn1=1,video_to_audio_attn=0.5`, or both: `0.8,video_to_audio_attn=0.5`.

    Raises:
        UserError: something else.
    """
    default, modules = 1.0, {}
    for i, item in enumerate(text.split(",")):
        part, equals, value = item.rpartition("=")
        number = finite_number(value)
        if number is None or (not equals and i > 0) or (equals and not re.fullmatch(r"[\w.]+", part)):
            raise UserError(
                f"'{text}' is no strength.",
                "Write a number, or module=number pairs: 1.0, or audio_attn1=1,audio_attn2=1,video_to_audio_attn=0.5.",
            )
        if not equals:
            default = number
        elif part in modules:
            raise UserError(f"The strength of {part} is given twice.", "Leave one of the two out.")
        else:
            modules[part] = number
    return Strength(default, modules)


def parse_adapter(text: str) -> tuple[str, Strength]:
    """Splits `FILE|REPO[:STRENGTH]` at its last colon.

    A text that names an existing file or folder is one, colons and all; a drive letter (`C:\\adapter.safetensors`) is
    no strength.

    Raises:
        UserError: the part behind the colon is no strength.
    """
    source, colon, strength = text.rpartition(":")
    if not colon or strength[:1] in ("/", "\\") or os.path.exists(text):
        return text, Strength()
    return source, parse_strength(strength)


def _names(part: str, path: str) -> bool:
    """Whether `part` stands in `path` between dots."""
    return f".{part}." in f".{path}."
