"""How much memory a model's weights take, exactly, from the files' headers."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from mlx_ltxw.models.transformer.tensor import TensorShare
from mlx_ltxw.weights.dtype import default_dtype, stays_float32
from mlx_ltxw.weights.header import Tensor
from mlx_ltxw.weights.loading import LAYER
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.shares import shared_tensor

_FLOATS = {"BF16", "F16", "F32"}


def network_bytes(model: ModelDir, component: str, dtype: mx.Dtype | None = None, audio_only: bool = False) -> int:
    """Bytes of one network's weights.

    Args:
        model: The model directory; its headers are read.
        component: The network.
        dtype: Of the network, as for `ModelDir.load`.
        audio_only: Whether the transformer's video side stays on disk.
    """
    itemsize = (dtype or default_dtype()).size
    return sum(_in_memory(component, tensor, itemsize) for tensor in model.tensors(component, audio_only))


def _in_memory(component: str, tensor: Tensor, itemsize: int) -> int:
    if tensor.dtype in _FLOATS:
        return tensor.elements * (4 if stays_float32(component, tensor.name) else itemsize)
    return tensor.nbytes


def part_bytes(model: ModelDir, component: str, dtype: mx.Dtype) -> dict[str, int]:
    """Bytes in memory of each part of a network, such as `encoder`; arguments as `network_bytes`'s."""
    parts: dict[str, int] = {}
    for tensor in model.tensors(component):
        part = tensor.name.partition(".")[0]
        parts[part] = parts.get(part, 0) + _in_memory(component, tensor, dtype.size)
    return parts


def layer_bytes(
    model: ModelDir,
    component: str,
    dtype: mx.Dtype | None = None,
    audio_only: bool = False,
    on_disk: str | None = None,
    stored: bool = False,
    which: Callable[[str], bool] = lambda _: True,
    dense: int = 0,
    share: TensorShare | None = None,
) -> tuple[list[int], int]:
    """Bytes of each layer's weights in memory, and of those outside the layers.

    Args:
        model: The model directory; its headers are read.
        component: The transformer or the text encoder.
        dtype, audio_only: As for `network_bytes`.
        on_disk: What a tensor that is left on disk has in its name.
        stored: Count what is read from disk for them instead.
        which: Of a layer's tensors, whether to count it, by its path in the layer.
        dense: Bits of a number where quantised weights are unpacked; 0 where they are not.
        share: One of several machines' share of the transformer; None for all of it.
    """
    settings = model.quantized_layers(component)
    packed = settings if dense else {}
    itemsize = (dtype or default_dtype()).size
    layers: dict[int, int] = {}
    rest = 0
    for tensor in model.tensors(component, audio_only):
        if on_disk is not None and on_disk in tensor.name:
            continue
        if share is not None:
            if stored and not share.keeps(tensor.name):
                continue
            tensor = shared_tensor(tensor, share, settings)
        nbytes = tensor.nbytes if stored else _in_memory(component, tensor, itemsize)
        path, _, leaf = tensor.name.rpartition(".")
        if path in packed:
            nbytes = tensor.nbytes * dense // packed[path]["bits"] if leaf == "weight" else nbytes * (leaf == "bias")
        found = LAYER.search(tensor.name)
        if found is None:
            rest += nbytes
        elif which(tensor.name[found.end() :]):
            layers[int(found[1])] = layers.get(int(found[1]), 0) + nbytes
    return [layers[index] for index in sorted(layers)], rest
