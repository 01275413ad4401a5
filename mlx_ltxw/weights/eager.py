"""Reads a whole network at once, as fast as the memory takes it: the next tensors while these are copied.

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

GROUP = 256 << 20
"""Bytes that are read together; twice as many are in memory beside the network while it is read."""


def read_now(network: nn.Module, tensors: Mapping[str, Tensor], dtype_of: Callable[[str, mx.Dtype], mx.Dtype]) -> int:
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
    order = _groups(tensors)
    reader, size = TensorReader(), max(room(group.values()) for group in order)
    stagings = [Staging(size) for _ in order[:2]]
    try:
        with ThreadPoolExecutor(1, "read now") as thread:
            coming = thread.submit(reader.fill, stagings[0].places(order[0]))
            for index, group in enumerate(order):
                coming.result()
                if index + 1 < len(order):
                    following = stagings[(index + 1) % 2].places(order[index + 1])
                    coming = thread.submit(reader.fill, following)
                network.update(tree_unflatten(list(stagings[index % 2].taken(group, dtype_of).items())))
    finally:
        reader.close()
    return reader.bytes_read


def _groups(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors in their order, so many together as fit, at least one."""
    groups: list[dict[str, Tensor]] = [{}]
    for path, tensor in tensors.items():
        if groups[-1] and room([*groups[-1].values(), tensor]) > GROUP:
            groups.append({})
        groups[-1][path] = tensor
    return groups
