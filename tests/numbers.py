"""How far two arrays are from each other."""

from __future__ import annotations

from typing import Any

import numpy as np


def relative_error(got: Any, want: Any) -> float:
    """Root-mean-square difference over the root-mean-square of `want`, in fp64 over the whole arrays."""
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
