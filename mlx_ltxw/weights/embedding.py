"""An embedding of which only the rows that are asked for are read: a prompt needs some sixty of Gemma's 262,208."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_ltxw.tree import share
from mlx_ltxw.weights.header import Tensor
from mlx_ltxw.weights.reading import DTYPES, TensorReader


class EmbeddingOnDisk:
    """Stands for an `nn.Embedding` or `nn.QuantizedEmbedding`, whose tensors have a token's numbers in a row each.

    Args:
        embedding: Its settings; its arrays are never looked at.
        tensors: Where its parameters lie, by name.
        dtype: Of what is not packed.
    """

    def __init__(self, embedding: nn.Module, tensors: Mapping[str, Tensor], dtype: mx.Dtype) -> None:
        self._embedding, self._tensors, self._dtype = embedding, tensors, dtype

    def __call__(self, ids: mx.array) -> mx.array:
        """Token ids (...) int to (..., D).

        Raises:
            UserError: the disk does not give the rows.
        """
        rows, places = np.unique(np.array(ids), return_inverse=True)
        reader = TensorReader()
        few = share(self._embedding)
        for name, tensor in self._tensors.items():
            values = mx.array(reader.rows(tensor, rows.tolist())).view(DTYPES[tensor.dtype])
            few[name] = values.astype(self._dtype) if mx.issubdtype(values.dtype, mx.floating) else values
        reader.close()
        return few(mx.array(places.reshape(ids.shape)))
