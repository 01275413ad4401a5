"""What the data check says: one finding a fault, and their table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mlx_ltxw.errors import UserError

Severity = Literal["error", "warning"]

OnProgress = Callable[[str, int, int], object]
"""Gets a stage of the data's preparation (`find`, `check`, `latents`, `text`), what is done of it, and of how many."""


@dataclass(frozen=True)
class Finding:
    """One fault of the data.

    Attributes:
        severity: An `error` keeps its clip from being trained on; a `warning` does not.
        file: The clip's name; empty where the whole set is meant.
        code: Stable name of the kind of fault, such as `no-sound`.
        text: What is wrong and what to do, in a sentence or two.
    """

    severity: Severity
    file: str
    code: str
    text: str


def error(file: str, code: str, text: str) -> Finding:
    return Finding("error", file, code, text)


def warning(file: str, code: str, text: str) -> Finding:
    return Finding("warning", file, code, text)


def table(findings: Sequence[Finding]) -> str:
    """Errors first, then warnings, each kind together; one line a finding; empty without any."""
    rows = [(f.severity, f.code, f.file or "(all clips)", f.text) for f in sorted(findings, key=_order)]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    return "\n".join("  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows)


def refuse_errors(findings: Sequence[Finding]) -> None:
    """Ends a run whose data has errors.

    Raises:
        UserError: there is an error among the findings; its message holds the first and their number.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        first = errors[0]
        others = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
        where = f"{first.file}: " if first.file else ""
        raise UserError(f"The data has faults: {where}{first.text}{others}", "Mend the clips, or leave them out.")


def _order(finding: Finding) -> tuple[bool, str, str]:
    return finding.severity != "error", finding.code, finding.file
