"""Reads a whole network at once, as fast as the memory takes it: the next layer while this one is copied.

`mx.load` reads each tensor when it is first needed, in the middle of the first step, and one file's tensors in turn
(`docs/performance.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_ltxw.weights.header import Tensor
from mlx_ltxw.weights.reading import TensorReader
from mlx_ltxw.weights.staging import Staging, room


def read_now(
    network: nn.Module, name: str, tensors: Mapping[str, Tensor], dtype_of: Callable[[str, mx.Dtype], mx.Dtype]
) -> int:
    """Puts arrays that are read now in the place of a network's own, which are not read yet.

    Args:
        network: Filled; changed in place.
        name: Of the attribute that holds its layers, each of which is read at once.
        tensors: Where every parameter of the network lies, by its path.
        dtype_of: The dtype in memory, by parameter path and stored dtype.

    Returns:
        Bytes read.

    Raises:
        UserError: the disk does not give them.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        start, number, *_ = (*path.split(".", 2), "", "")
        layers.setdefault(number if start == name else "", {})[path] = tensor
    order = list(layers.values())
    reader, size = TensorReader(), max(map(room, (layer.values() for layer in order)))
    stagings = [Staging(size) for _ in order[:2]]
    try:
        with ThreadPoolExecutor(1, "read now") as thread:
            coming = thread.submit(reader.fill, stagings[0].places(order[0]))
            for index, layer in enumerate(order):
                coming.result()
                if index + 1 < len(order):
                    following = stagings[(index + 1) % 2].places(order[index + 1])
                    coming = thread.submit(reader.fill, following)
                network.update(tree_unflatten(list(stagings[index % 2].taken(layer, dtype_of).items())))
    finally:
        reader.close()
    return reader.bytes_read
