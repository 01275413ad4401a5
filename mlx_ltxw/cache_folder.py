"""Where what can be made again is kept between runs: prompts' contexts, kernels."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "MLX_LTXW_CACHE"
"""Names the prompts' folder, inside of which all others lie then; 0 for none."""


def cache_folder(kind: str) -> Path | None:
    """`$MLX_LTXW_CACHE`, or the user's cache folder; None where the variable is 0, and for a user who has no home.

    Args:
        kind: `prompts`, or another one's name.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen == "0":
        return None
    if chosen:
        return Path(chosen).expanduser() / ("" if kind == "prompts" else kind)
    try:
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "mlx-ltxw" / kind
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-ltxw" / kind
    except RuntimeError:  # as in a container, for a number that is no user's
        return None
