"""Means and spreads of random weights at which a network keeps its numbers in range, and roundings small.

A vocoder whose residual convolutions keep the variance of what they read doubles it in each of its blocks; its sines
then turn through many periods, and a last bit of its input decides the whole of its output. So these are narrower, and
what is no weight but a filter stays one.
"""

from __future__ import annotations

import math
import re

_RULES: tuple[tuple[str, float, float], ...] = (
    (r"\.filter$", 1.0, 0.1),
    (r"mel_basis$", 1.0, 0.1),
    (r"(^|\.)conv_pre\.weight$", 0.0, 0.2),
    (r"(^|\.)resblocks\..*\.weight$", 0.0, 0.5),
    (r"^bwe_generator\.conv_post\.weight$", 0.0, 0.03),
    (r"(^|\.)conv_post\.weight$", 0.0, 0.1),
)
"""Pattern of a parameter's path -> its mean times its fan-in, so that a filter's taps have the sum 1, and its deviation
in parts of that mean, or of what keeps the variance of independent inputs where the mean is 0."""
_UPSAMPLING = re.compile(r"(^|\.)ups\.\d+\.weight$")


def mean_and_spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Of one parameter's values.

    Args:
        name: Its path in the network.
        shape: Outputs first.
    """
    if name.endswith("norm.weight"):
        return 1.0, 0.1
    if len(shape) == 1 or "table" in name:
        return 0.0, 0.1
    fan_in = math.prod(shape[1:])
    if _UPSAMPLING.search(name):  # a sample of the output sees about two taps of each channel
        return 0.0, (2 * shape[-1]) ** -0.5
    for pattern, mean, gain in _RULES:
        if re.search(pattern, name):
            return mean / fan_in, gain * (fan_in**-1.0 if mean else fan_in**-0.5)
    return 0.0, fan_in**-0.5
