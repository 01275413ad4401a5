"""Reaches mlx-lm's model files without mlx-lm's own `__init__`.

`import mlx_lm.models.gemma3_text` first runs `mlx_lm/__init__.py`, which imports its generator, its converter and with
them transformers (and torch where installed): seconds, for a model file that needs only mlx.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ALIAS = "mlx_ltxw.models.text._mlx_lm_models"
"""The name under which mlx-lm's `models` folder is a package of its own; mlx-lm itself stays untouched."""


def gemma3_text() -> ModuleType:
    """mlx-lm's `models/gemma3_text.py`; the copy already loaded, when mlx-lm itself is imported."""
    if "mlx_lm" in sys.modules:
        return importlib.import_module("mlx_lm.models.gemma3_text")
    if ALIAS not in sys.modules:
        package = importlib.util.find_spec("mlx_lm")  # finds the top level without running it
        if package is None or not package.submodule_search_locations:
            raise ModuleNotFoundError("No module named 'mlx_lm'", name="mlx_lm")
        folder = Path(package.submodule_search_locations[0]) / "models"
        spec = importlib.util.spec_from_file_location(
            ALIAS, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        sys.modules[ALIAS] = importlib.util.module_from_spec(spec)  # the folder's __init__ is empty: nothing to run
    return importlib.import_module(f"{ALIAS}.gemma3_text")
