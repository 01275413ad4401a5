"""Memory that a reading thread fills and the device copies from: a layer of a network on its way.

The thread writes bytes where MLX's array lies, with no copy of its own in between and nothing of MLX's graph in it. The
device then copies them into arrays of their own, in a stream beside that of the computation, so that the memory is free
for the next layer as soon as that is done.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_ltxw.machine import on_cuda
from mlx_ltxw.weights.header import Tensor
from mlx_ltxw.weights.reading import DTYPES

_ALIGNMENT = 256
_WORD = 4

_PREFERRED_LOCATION, _ACCESSED_BY = 3, 5  # CUmem_advise
_HOST, _CARD = -1, 0


class Staging:
    """Room for one layer at a time.

    Args:
        nbytes: Of the largest layer, from `room`.
    """

    def __init__(self, nbytes: int) -> None:
        self._array = mx.array(np.zeros(nbytes // _WORD, np.uint32))
        mx.eval(self._array)
        self._memory = np.array(self._array, copy=False)
        if on_cuda():
            _keep_on_host(self._memory)

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self._array.nbytes

    def places(self, tensors: Mapping[str, Tensor]) -> list[tuple[Tensor, memoryview]]:
        """Where each tensor's bytes are to be read to."""
        memory = self._memory.data.cast("B")
        spans = _spans(tensors.values())
        return [(tensor, memory[at : at + tensor.nbytes]) for tensor, at in zip(tensors.values(), spans, strict=True)]

    def taken(
        self,
        tensors: Mapping[str, Tensor],
        dtype_of: Callable[[str, mx.Dtype], mx.Dtype],
        arranged: Callable[[dict[str, mx.array]], Any] = lambda arrays: arrays,
        wait: bool = True,
    ) -> Any:
        """Arrays of their own with what was read, in their dtypes in memory.

        Args:
            tensors: What was read, in the order of `places`.
            dtype_of: The dtype in memory, by name and stored dtype.
            arranged: What is made of them, by name, before they are; a tree of arrays.
            wait: For them; otherwise nothing may be read into this memory before they are evaluated.
        """
        with mx.stream(beside()):
            arrays = {
                name: self._copied(tensor, at, dtype_of(name, DTYPES[tensor.dtype]))
                for (name, tensor), at in zip(tensors.items(), _spans(tensors.values()), strict=True)
            }
            made = arranged(arrays)
            del arrays
            (mx.eval if wait else mx.async_eval)(made)
        return made

    def _copied(self, tensor: Tensor, at: int, dtype: mx.Dtype) -> mx.array:
        stored = DTYPES[tensor.dtype]
        words = self._array[at // _WORD : (at + tensor.nbytes + _WORD - 1) // _WORD]
        bits = mx.view(words, _BITS[stored.size])[: tensor.elements]
        if dtype == stored:
            bits = mx.bitwise_or(bits, mx.array(0, bits.dtype))  # what copies, and keeps every bit
        return mx.reshape(mx.view(bits, stored).astype(dtype), tensor.shape)


_BITS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}
_streams: dict[str, mx.Stream] = {}


def room(tensors: Iterable[Tensor]) -> int:
    """Bytes that a layer's tensors take in a staging."""
    return sum(_padded(tensor.nbytes) for tensor in tensors)


def _spans(tensors: Iterable[Tensor]) -> list[int]:
    """Where each tensor begins."""
    starts, at = [], 0
    for tensor in tensors:
        starts.append(at)
        at += _padded(tensor.nbytes)
    return starts


def _padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def beside() -> mx.Stream:
    """A stream of the default device beside that of the computation, for what copies weights; one for all."""
    device = mx.default_device()
    if str(device) not in _streams:  # a stream that was made is never given back
        _streams[str(device)] = mx.new_stream(device)
    return _streams[str(device)]


def _keep_on_host(memory: np.ndarray) -> None:
    """Lets a CUDA card read an array's managed memory where it is, instead of moving it there and back each time."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return  # it is read all the same, more slowly
    address, size = ctypes.c_uint64(memory.ctypes.data), ctypes.c_size_t(memory.nbytes)
    for advice, place in ((_PREFERRED_LOCATION, _HOST), (_ACCESSED_BY, _CARD)):
        driver.cuMemAdvise(address, size, ctypes.c_int(advice), ctypes.c_int(place))
