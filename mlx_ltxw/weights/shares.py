"""Reads one machine's share of a network's weights: of a tensor that is cut, its own rows or columns alone."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.transformer.tensor import TensorShare, kept
from mlx_ltxw.weights.header import BITS, Tensor
from mlx_ltxw.weights.reading import DTYPES


def read_share(tensors: Mapping[str, Tensor], shard: TensorShare) -> dict[str, mx.array]:
    """The arrays of a machine's share, by parameter path, in the dtypes of the file.

    Files are mapped, and of a tensor the system reads the pages that the share touches: rows are one stretch of the
    file, columns one stretch a row.

    Raises:
        UserError: a file is gone or cut off, or packed weights cannot be cut so.
    """
    arrays = {}
    for name, tensor in tensors.items():
        cut = shard.cut(name, tensor.shape) or ()
        bytes_each = BITS[tensor.dtype] // 8
        try:
            mapped = (
                np.memmap(tensor.path, f"u{bytes_each}", "r", tensor.start, tensor.shape) if tensor.elements else None
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"{tensor.path} can no longer be read ({error}).",
                "See that the disk with the model is there and sound, then run again.",
            ) from error
        values = np.zeros(tensor.shape, f"u{bytes_each}") if mapped is None else np.ascontiguousarray(mapped[cut])
        array, dtype = mx.array(values), DTYPES[tensor.dtype]
        arrays[name] = array if array.dtype == dtype else array.view(dtype)
    return kept(arrays, shard)


def share_bytes(tensor: Tensor, shard: TensorShare) -> int:
    """Bytes of a machine's share of a tensor."""
    cut = shard.cut(tensor.name, tensor.shape)
    if cut is None:
        return tensor.nbytes
    axis = len(cut) - 1
    return tensor.nbytes * (cut[axis].stop - cut[axis].start) // max(1, tensor.shape[axis])
