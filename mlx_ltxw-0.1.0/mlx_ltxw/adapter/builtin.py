"""The adapters that ship with the package, by the name `--adapter` knows them."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "builtin" / "adapters"
BUILTIN_ADAPTERS = {path.stem: path for path in sorted(_FOLDER.glob("*.safetensors"))}
"""Name -> file; for the small built-in model only."""
