"""Quantised linears that multiply in the way that is fastest on the device (`ops/packed.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models import ops


class PackedLinear(nn.QuantizedLinear):
    """MLX's quantised linear, with the same arrays."""

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out), in the dtype of `x`."""
        return ops.packed_product(self, x)


def quantize(network: nn.Module, predicate: Callable[[str, nn.Module], bool | dict[str, Any]], **common: Any) -> None:
    """As `nn.quantize`, with `PackedLinear`s.

    Args:
        network: Changed in place.
        predicate: Of a module and its path: whether it is quantised, or the settings (`group_size`, `bits`, `mode`).
        common: The settings where the predicate has none.
    """
    nn.quantize(network, class_predicate=predicate, **common)
    for module in network.modules():
        if type(module) is nn.QuantizedLinear:
            module.__class__ = PackedLinear
