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
    0.89,
    {
        "active": (0.8938, 0.1346, 0.8247),
        "level spread": (7.886, 3.797, 0.2429),
        "level 2-8 Hz": (0.477, 0.2245, 0.4516),
        "level fast": (0.1599, 0.1791, -0.3097),
        "rise skew": (0.4145, 0.9547, -0.1201),
        "run length": (-0.608, 0.8519, -0.2226),
        "runs": (2.072, 1.37, -0.02455),
        "c1": (2.125, 0.8042, 1.442),
        "c2": (1.909, 0.7665, 0.9541),
        "c3": (1.842, 0.798, 1.741),
        "c4-c6": (1.526, 0.6431, 0.9991),
        "c 2-8 Hz": (0.4578, 0.159, 0.3341),
        "c slow": (0.4254, 0.2015, 0.2875),
        "flux": (1.327, 0.6415, 0.736),
        "flux long": (1.628, 0.7852, 0.7865),
        "level with c1": (0.02378, 0.5296, 0.1351),
        "band spread": (6.863, 2.829, -0.0118),
        "centre": (6.441, 2.925, -0.3124),
        "band entropy": (1.964, 0.4429, -0.04353),
        "distinct": (2.619, 0.724, 1.001),
        "periodicity": (0.6155, 0.2977, -0.3685),
        "periodicity top": (0.737, 0.2709, -0.5256),
        "voiced": (0.4252, 0.393, -0.6444),
        "glide": (1.922, 0.9257, 0.5945),
        "f0 spread": (0.6558, 0.7562, -0.6665),
        "flat pitch": (0.2461, 0.2181, -0.7746),
        "breath": (0.3971, 0.2197, 0.3074),
        "first": (2.266, 12.94, 0.346),
        "steady bands": (0.5554, 0.5432, 0.5237),
        "unvoiced among": (0.5201, 0.3737, 0.3897),
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
CLIP = (1.907, -2.343)
