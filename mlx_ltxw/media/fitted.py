"""Logistic models fitted to known sounds by `python -m scripts.registers.fit`; not to be edited by hand."""

from typing import NamedTuple

import numpy as np


class Model(NamedTuple):
    """Logistic regression on scaled figures."""

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    weight: tuple[float, ...]
    bias: float

    def score(self, figures: np.ndarray) -> float:
        """The log odds of (F,) figures."""
        scaled = ((figures - np.array(self.centre)) / np.array(self.scale)).clip(-4, 4)
        return float(scaled @ np.array(self.weight) + self.bias)


SPEECH = Model(
    (
        0.8647,
        8.395,
        0.4676,
        0.1467,
        0.4277,
        -0.5361,
        1.899,
        2.186,
        1.968,
        1.912,
        1.573,
        0.4389,
        0.4583,
        1.353,
        1.658,
        0.02486,
        6.725,
        6.337,
        1.985,
        2.71,
        0.6214,
        0.7424,
        0.427,
        1.954,
        0.715,
        0.2397,
        0.3945,
        2.386,
        0.5745,
        0.5036,
    ),
    (
        0.1523,
        3.747,
        0.2197,
        0.1662,
        0.9362,
        0.9049,
        1.286,
        0.7477,
        0.7237,
        0.7564,
        0.6002,
        0.1518,
        0.1927,
        0.6165,
        0.7638,
        0.5109,
        2.702,
        2.888,
        0.4204,
        0.7043,
        0.2966,
        0.2684,
        0.3911,
        0.9158,
        0.7208,
        0.212,
        0.2153,
        12.52,
        0.5323,
        0.3659,
    ),
    (
        1.053,
        0.3551,
        0.3341,
        -0.3907,
        0.09824,
        -0.2615,
        0.1248,
        1.26,
        0.852,
        1.368,
        0.7608,
        0.3738,
        0.2353,
        0.6673,
        0.7628,
        0.1689,
        -0.1709,
        -0.2244,
        -0.09359,
        0.8591,
        -0.1262,
        -0.3647,
        -0.5101,
        0.5302,
        -0.7387,
        -0.5979,
        0.311,
        0.2827,
        0.5434,
        0.465,
    ),
    1.28,
)
EFFORT = Model(
    (
        -11.63,
        -8.711,
        3.318,
        0.4583,
        12.36,
        0.692,
    ),
    (
        5.206,
        2.887,
        6.089,
        0.1862,
        4.074,
        0.492,
    ),
    (
        -1.386,
        -0.9632,
        0.3695,
        -0.9092,
        0.381,
        -0.2668,
    ),
    -2.063,
)
CLIP = (2.031, -1.749)
