"""Takes: several sounds for one picture, each with a manner, a seed, adapters or words of its own.

A take is written as `manner=soft seed=3 adapter=whisper:0.8`, in any order, each part but `adapter` once; a manner
alone needs no `manner=`. What it leaves out it has from the run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_ltxw.errors import UserError
from mlx_ltxw.prompts.manner import REGISTERS

MOST = 64
"""Takes on one picture."""
_LONGEST = 1 << 16
_KEYS = ("adapter", "manner", "seed", "prompt")
_EXAMPLE = "Write it as: adapter=whisper:0.8 manner=soft seed=3."


@dataclass(frozen=True)
class Take:
    """What one take is asked for.

    Attributes:
        manner: `whispering`, `soft` or `normal`; None leaves the prompt as it is.
        adapters: Its own; None leaves them to the run, and to the manner: a normal take has none.
        seed: Of its own noise, or -1 for any; None takes the clip's, and `shift` more.
        shift: How far its seed lies beyond the clip's.
        prompt: Its own words; None for the run's.
    """

    manner: str | None = None
    adapters: tuple[str, ...] | None = None
    seed: int | None = None
    shift: int = 0
    prompt: str | None = None

    def __str__(self) -> str:
        """As it is written, and kept in the metadata."""
        parts = [] if self.manner is None else [("manner", self.manner)]
        parts += [("adapter", one) for one in self.adapters or ()]
        parts += [("adapter", "none")] if self.adapters == () else []
        if self.seed is not None or self.shift or not (parts or self.prompt is not None):
            parts.append(("seed", f"+{self.shift}" if self.seed is None else str(self.seed)))
        parts += [] if self.prompt is None else [("prompt", self.prompt)]
        return " ".join(f"{key}={shlex.quote(value)}" for key, value in parts)


def read_take(text: str) -> Take:
    """Reads one take.

    Raises:
        UserError: a part that is none, is there twice, or has no such value.
    """
    if len(text) > _LONGEST:
        raise UserError("A take is longer than any prompt.", _EXAMPLE)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"'{text}' is no take: a quote is not closed.", _EXAMPLE) from error
    parts: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        key, value = (key.lower(), value) if equals else ("manner", key)
        if key not in _KEYS or not value:
            raise UserError(f"'{word}' is no part of a take.", f"{_EXAMPLE} Its parts are {', '.join(_KEYS)}.")
        parts.setdefault(key, []).append(value)
    if not parts:
        raise UserError("A take is empty.", _EXAMPLE)
    twice = [key for key, values in parts.items() if len(values) > 1 and key != "adapter"]
    if twice:
        raise UserError(f"The take '{text}' has {twice[0]} twice.", "Give it once.")
    manner, seed, prompt = (parts.get(key, [None])[0] for key in ("manner", "seed", "prompt"))
    if manner is not None and manner not in REGISTERS:
        raise UserError(f"There is no manner '{manner}'.", f"There are {', '.join(REGISTERS)}.")
    return Take(manner, _adapters(text, parts.get("adapter")), *_seed(seed), prompt)


def takes_of(given: int | str | Sequence[str]) -> tuple[str, ...]:
    """Takes as a request has them.

    Args:
        given: A number of seeds, from the clip's own on (also as text); manners between commas; or a list of takes.

    Raises:
        UserError: none, too many, or one that is no take.
    """
    if isinstance(given, str):
        text = given.strip()
        given = int(text) if re.fullmatch(r"[+-]?\d{1,9}", text) else [one.strip() for one in text.split(",")]
        if isinstance(given, list) and any("=" in one for one in given):
            given = [text]  # a single take, whose adapter may have commas in its strength
    listed = isinstance(given, list | tuple) and all(isinstance(one, str) for one in given)
    if isinstance(given, bool) or not (listed or isinstance(given, int)):
        raise UserError(f"{given!r} are no takes.", "Give a number, manners, or a list of takes.")
    check_number(given if isinstance(given, int) else len(given))
    if isinstance(given, int):
        return tuple(str(Take(shift=number)) for number in range(given))
    return tuple(str(read_take(one)) for one in given)


def check_number(takes: int) -> None:
    """Refuses no takes, and more than anybody listens to.

    Raises:
        UserError: as it says.
    """
    if takes < 1:
        raise UserError(f"{takes} takes make nothing.", "Ask for at least 1.")
    if takes > MOST:
        raise UserError(f"{takes} takes are too many for one picture.", f"Give up to {MOST}.")


def _adapters(text: str, given: list[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    if "none" in given and len(given) > 1:
        raise UserError(f"The take '{text}' has adapters, and none.", "Leave adapter=none out, or the others.")
    return () if given == ["none"] else tuple(given)


def _seed(text: str | None) -> tuple[int | None, int]:
    """-> the seed, if it is the take's own, and how far it lies beyond the clip's."""
    if text is None:
        return None, 0
    if not re.fullmatch(r"\+?\d{1,20}|-1", text):
        raise UserError(
            f"'{text}' is no seed.", "Give a whole number, -1 for any, or +2 for the clip's own and two more."
        )
    return (None, int(text)) if text.startswith("+") else (int(text), 0)
