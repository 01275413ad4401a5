"""Logistic models fitted to known sounds by `python -m scripts.registers.fit`; not to be edited by hand."""

from typing import NamedTuple

import numpy as np


class Model(NamedTuple):
    """Logistic regression: the bias, and of each figure its centre, its scale and the weight of the scaled figure."""

    bias: float
    table: dict[str, tuple[float, float, float]]

    def score(self, figures: np.ndarray) -> float:
        """The log odds of (F,) figures, in the table's order."""
        centre, scale, weight = np.array(list(self.table.values())).T
        return float(((figures - centre) / scale).clip(-4, 4) @ weight + self.bias)


SPEECH = Model(
    1.279,
    {
        "active": (0.8648, 0.1521, 1.054),
        "level spread": (8.395, 3.747, 0.3552),
        "level 2-8 Hz": (0.4676, 0.2197, 0.3338),
        "level fast": (0.1467, 0.1662, -0.3912),
        "rise skew": (0.4277, 0.9362, 0.09795),
        "run length": (-0.5357, 0.9042, -0.2617),
        "runs": (1.899, 1.286, 0.1241),
        "c1": (2.186, 0.7478, 1.26),
        "c2": (1.968, 0.7236, 0.8516),
        "c3": (1.912, 0.7564, 1.368),
        "c4-c6": (1.573, 0.6003, 0.7609),
        "c 2-8 Hz": (0.4389, 0.1518, 0.3738),
        "c slow": (0.4584, 0.1927, 0.2354),
        "flux": (1.354, 0.6165, 0.667),
        "flux long": (1.658, 0.7638, 0.7629),
        "level with c1": (0.0249, 0.5109, 0.1688),
        "band spread": (6.724, 2.704, -0.171),
        "centre": (6.337, 2.888, -0.2245),
        "band entropy": (1.985, 0.4205, -0.09368),
        "distinct": (2.71, 0.7045, 0.859),
        "periodicity": (0.6214, 0.2966, -0.126),
        "periodicity top": (0.7424, 0.2684, -0.3645),
        "voiced": (0.427, 0.3911, -0.5097),
        "glide": (1.954, 0.9158, 0.5302),
        "f0 spread": (0.715, 0.7208, -0.7386),
        "flat pitch": (0.2397, 0.212, -0.5976),
        "breath": (0.3945, 0.2153, 0.3108),
        "first": (2.386, 12.52, 0.2824),
        "steady bands": (0.5735, 0.5291, 0.5446),
        "unvoiced among": (0.5036, 0.3659, 0.4647),
    },
)
EFFORT = Model(
    -2.063,
    {
        "ratio": (-11.63, 5.206, -1.386),
        "slope": (-8.711, 2.887, -0.9632),
        "first": (3.318, 6.089, 0.3695),
        "breath": (0.4583, 0.1862, -0.9092),
        "noise": (12.36, 4.074, 0.381),
        "pitch": (0.692, 0.492, -0.2668),
    },
)
CLIP = (2.031, -1.749)
