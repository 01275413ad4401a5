"""Keeps MLX's CUDA backend from gathering kernels into CUDA graphs, where that costs more than it saves.

With graphs, a forward of the 19B transformer at 704x480x97 took 0.33 to 0.51 s on an H200, from one run to the next;
without them it takes 0.29 s (`docs/log.md`). The variable is read when the first kernel runs, and by no other backend.
"""

from __future__ import annotations

import os

VARIABLE = "MLX_USE_CUDA_GRAPHS"
"""MLX's own; a value that is already set is left alone."""


def avoid_cuda_graphs() -> None:
    """Sets the variable to 0 unless it has a value."""
    os.environ.setdefault(VARIABLE, "0")
