"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from mlx_ltxw.errors import UserError

Health = Literal["good", "note", "fault"]


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        area: What was looked at, in a word or two.
        state: `good`; `note`, what to know; `fault`, what has to be mended.
        text: One line.
        advice: What to do; of every fault, and of some notes.
        facts: The figures, for JSON.
    """

    area: str
    state: Health
    text: str
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_error(
        cls, area: str, error: UserError, state: Health = "fault", facts: dict[str, Any] | None = None
    ) -> Self:
        """What ended the look at something, with fields as the commands' flags."""
        told = error.spelled(_as_flag)
        return cls(area, state, told.message, told.hint, facts or {})

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def _as_flag(name: str, value: str | None) -> str:
    return f"--{name.replace('_', '-')}" + (f" {value}" if value not in (None, "True") else "")
