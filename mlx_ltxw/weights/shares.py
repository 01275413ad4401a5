"""One machine's share of a network's weights, where it lies in the files: of a tensor its own rows or columns alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import mlx.core as mx

from mlx_ltxw.models.transformer.tensor import NOT_PACKED, TensorShare
from mlx_ltxw.weights.header import BITS, Tensor
from mlx_ltxw.weights.reading import DTYPES

Layers = Mapping[str, Mapping[str, Any]]
"""Quantised layers' settings, by path (`ModelDir.quantized_layers`)."""


def shared_tensors(tensors: Iterable[Tensor], share: TensorShare, layers: Layers) -> dict[str, Tensor]:
    """What a machine reads of a network's tensors, by parameter path; without those that are zeros there.

    Args:
        tensors: Of the network.
        share: The machine's.
        layers: Which linears are quantised, and how.
    """
    return {tensor.name: shared_tensor(tensor, share, layers) for tensor in tensors if share.keeps(tensor.name)}


def shared_tensor(tensor: Tensor, share: TensorShare, layers: Layers) -> Tensor:
    """A machine's part of a tensor: rows in one piece of the file, or columns, a piece of every row."""
    packing = layers.get(tensor.name.rpartition(".")[0], NOT_PACKED)
    cut = share.cut(tensor.name, tensor.shape, packing)
    if cut is None:
        return tensor
    axis, part = len(cut) - 1, cut[-1]
    shape = (*tensor.shape[:axis], part.stop - part.start, *tensor.shape[axis + 1 :])
    if axis == 0:
        row = tensor.nbytes // tensor.shape[0]
        start, stop = tensor.start + part.start * row, tensor.start + part.stop * row
        return dataclasses.replace(tensor, shape=shape, start=start, stop=stop)
    each, row = BITS[tensor.dtype] // 8, tensor.nbytes // tensor.shape[0]
    start = tensor.start + part.start * each
    stop = tensor.stop - row + part.stop * each
    return dataclasses.replace(tensor, shape=shape, start=start, stop=stop, apart=row)


def unread(tensors: Iterable[Tensor]) -> dict[str, mx.array]:
    """Zeros of the tensors' shapes and dtypes, by parameter path, in place of what is read later; none is computed."""
    return {tensor.name: mx.zeros(tensor.shape, DTYPES[tensor.dtype]) for tensor in tensors}
