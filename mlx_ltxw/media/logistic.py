"""Logistic regression: what `scripts/registers/fit.py` fits and the registers are judged by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class LogisticModel(NamedTuple):
    """The bias, and of each figure its centre, its scale and the weight of the scaled figure."""

    bias: float
    table: dict[str, tuple[float, float, float]]

    def score(self, figures: np.ndarray) -> float:
        """The log odds of (F,) figures, in the table's order."""
        centre, scale, weight = np.array(list(self.table.values())).T
        return float(((figures - centre) / scale).clip(-4, 4) @ weight + self.bias)
