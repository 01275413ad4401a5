"""Keeps MLX's GPU backends from multiplying float32 in TF32, whose products have 10 bits where float32 has 23.

The vocoder, the spectra and everything else that is float32 is so because bfloat16 is not exact enough for it, and TF32
is no better: 60 s of sound made in pieces differ from the whole by 1.4e-3 with it, by 4.3e-7 without (`docs/log.md`).
It concerns CUDA, and Metal from the M5 on; products of bfloat16 are left as they are. MLX reads the variable when it
first multiplies (`mlx/utils.h:enable_tf32`), and keeps what it read.
"""

from __future__ import annotations

import os
from typing import Any

VARIABLE = "MLX_ENABLE_TF32"
"""MLX's own; a value that is already set is left alone."""

LATE = (
    "MLX had multiplied in this process before mlx-ltxw was asked for anything, and goes on multiplying float32 in "
    f"TF32; the sound is less exact. Set {VARIABLE}=0 before Python starts, or call `mlx_ltxw.load` first."
)
_SIZE = 256


def avoid_tf32() -> None:
    """Sets the variable to 0 unless it has a value."""
    os.environ.setdefault(VARIABLE, "0")


def tf32_is_used(mx: Any) -> bool:
    """Whether MLX's default device multiplies float32 in TF32, by a product that tells: 1 + 2^-12 times one.

    It makes MLX read the variable.

    Args:
        mx: `mlx.core`.
    """
    value = 1 + 2.0**-12  # 1 in TF32's 10 bits
    product = mx.full((_SIZE, _SIZE), value, mx.float32) @ mx.eye(_SIZE, dtype=mx.float32)
    return bool((product == 1).all().item())
