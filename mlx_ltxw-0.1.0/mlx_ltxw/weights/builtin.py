"""The small model that ships with the package."""

from __future__ import annotations

from pathlib import Path

BUILTIN_MODEL = Path(__file__).parents[1] / "builtin"
