"""Results that are no numbers end a run at once, with a sentence."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_ltxw.errors import UserError

_HINT = (
    "Run `mlx-ltxw doctor`, which checks this machine and, with {field:model}, the weights; with "
    "{field:dtype=float32} nothing overflows."
)


class LostNumbers(UserError):
    """A result is NaN or infinite, and would be again."""


_FLOAT16 = "Run it again with {field:dtype=bfloat16}: float16, in which it ran, ends at 65504."


def check_finite(what: str, *arrays: mx.array | np.ndarray | None, dtype: mx.Dtype | None = None) -> None:
    """Ends a run whose numbers are lost.

    Args:
        what: They are, for the message.
        arrays: Evaluated; None is passed over.
        dtype: In which they were computed, where that may be why.

    Raises:
        LostNumbers: some are NaN or infinite.
    """
    for array in arrays:
        if array is None:
            continue
        finite = mx.isfinite(array) if isinstance(array, mx.array) else np.isfinite(array)
        if not finite.all().item():
            overflows = dtype is not None and dtype == mx.float16  # MLX compares a dtype with no None
            raise LostNumbers(f"{what} are no numbers any more (NaN or infinite).", _FLOAT16 if overflows else _HINT)
