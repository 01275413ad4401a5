"""Reads a whole network at once, as fast as the memory takes it: the next tensors while these are copied.

`mx.load` reads each tensor when it is first needed, in the middle of the first step, and one file's tensors in turn
(`docs/performance.md`).
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_ltxw.weights.arriving import Arrival, DtypeOf
from mlx_ltxw.weights.header import Tensor


def read_now(network: nn.Module, tensors: Mapping[str, Tensor], dtype_of: DtypeOf) -> int:
    """Puts arrays that are read now in the place of a network's own, which are not read yet.

    Args:
        network: Filled; changed in place.
        tensors: Where every parameter of the network lies, by its path.
        dtype_of: The dtype in memory, by parameter path and stored dtype.

    Returns:
        Bytes read.

    Raises:
        UserError: the disk does not give them.
    """
    arrival = Arrival([tensors], dtype_of)
    arrival.into(lambda come: network.update(tree_unflatten(list(come.items()))))
    return arrival.finish()
