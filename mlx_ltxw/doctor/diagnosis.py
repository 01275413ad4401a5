"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

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

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)
