"""Products with quantised weights: unpacked once and multiplied densely, or by MLX's own kernel, whichever is faster.

Both give the same number but for rounding: MLX's kernels, too, multiply what a code stands for in the dtype of `x`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models.ops import device, unpack_cuda
from mlx_ltxw.models.ops.twins import gradients_wanted

UNPACKED_FROM: dict[str, int | None] = {"cpu": 16, "cuda": 16, "metal": None}
"""From how many rows on a weight is unpacked first, by backend; None for never.

- `cpu`: MLX's quantised product takes as long for each row (1024 by 1024, 8 bits: 0.7 ms a row; 468 rows 300 ms, 11 ms
  unpacked), so only a few rows are faster with it.
- `cuda`: its quantised product takes 3 to 5 times as long as a dense one where both are bound by arithmetic
  (`docs/performance.md`).
- `metal`: its kernel unpacks a tile at a time into the memory of a core, next to free where arithmetic is the bound,
  and a weight in full would have to be written and read again in memory, which is what a Mac is short of. Not measured.
"""


class Packing(NamedTuple):
    """How numbers are packed, as `mx.quantize` has it."""

    group_size: int
    bits: int
    mode: str


def packed_product(layer: nn.QuantizedLinear, x: mx.array) -> mx.array:
    """What a quantised linear makes of `x`, (..., in) -> (..., out), in the dtype of `x`; nothing dense is kept for a
    gradient."""
    if not _unpacks(x):
        y = _quantised(layer, x, transpose=True)
        return y + layer.bias if "bias" in layer else y
    if not gradients_wanted():
        weight = unpacked(layer, x.dtype).T
        return (mx.addmm(layer.bias, x, weight) if "bias" in layer else x @ weight).astype(x.dtype)
    names = tuple(name for name in ("weight", "scales", "biases", "bias") if name in layer)
    product: Any = _unpacking(_packing(layer), names)(x, *(layer[name] for name in names))
    return product.astype(x.dtype)


def packed_back(layer: nn.QuantizedLinear, cotangent: mx.array, onto: mx.array | None = None) -> mx.array:
    """The cotangent (..., out) of a quantised linear's result, taken to that of its input, (..., in).

    Args:
        layer: Frozen.
        cotangent: The loss's gradient with respect to the result.
        onto: What to add it to.
    """
    if _unpacks(cotangent):
        weight = unpacked(layer, cotangent.dtype)
        return cotangent @ weight if onto is None else mx.addmm(onto, cotangent, weight)
    back = _quantised(layer, cotangent, transpose=False)
    return back if onto is None else onto + back


def unpacked(layer: nn.QuantizedLinear, dtype: mx.Dtype) -> mx.array:
    """A quantised linear's weight (out, in) in a floating dtype."""
    return _dense(_packing(layer), dtype, layer.weight, layer.scales, layer.get("biases"))


def _unpacks(x: mx.array) -> bool:
    least = UNPACKED_FROM[device.backend()]
    return least is not None and x.size >= least * x.shape[-1]


def _packing(layer: nn.QuantizedLinear) -> Packing:
    return Packing(layer.group_size, layer.bits, layer.mode)


def _quantised(layer: nn.QuantizedLinear, x: mx.array, transpose: bool) -> mx.array:
    return mx.quantized_matmul(
        x, layer.weight, layer.scales, layer.get("biases"), transpose=transpose,
        group_size=layer.group_size, bits=layer.bits, mode=layer.mode,
    )  # fmt: skip


def _dense(
    packing: Packing, dtype: mx.Dtype, weight: mx.array, scales: mx.array, biases: mx.array | None = None
) -> mx.array:
    ours = device.backend() == "cuda" and unpack_cuda.fits(weight, *packing)
    if ours and unpack_cuda.works(*packing, scales.dtype, dtype):
        return unpack_cuda.unpack(weight, scales, biases, *packing, dtype)
    return mx.dequantize(weight, scales, biases, *packing[:2], mode=packing.mode, dtype=dtype)


@functools.cache
def _unpacking(packing: Packing, names: tuple[str, ...]) -> Callable[..., mx.array]:
    """The product of `x` and the arrays of those names, whose gradient unpacks the weight again."""

    def dense(dtype: mx.Dtype, given: dict[str, mx.array]) -> mx.array:
        return _dense(packing, dtype, given["weight"], given["scales"], given.get("biases"))

    @mx.custom_function
    def product(x: mx.array, *arrays: mx.array) -> mx.array:
        given = dict(zip(names, arrays, strict=True))
        weight = dense(x.dtype, given).T
        return mx.addmm(given["bias"], x, weight) if "bias" in given else x @ weight

    @product.vjp
    def back(primals: Any, cotangent: mx.array, output: mx.array) -> tuple[mx.array, ...]:
        _, *arrays = primals
        given = dict(zip(names, arrays, strict=True))
        (given["weight"],) = mx.depends([given["weight"]], [cotangent])  # not the one of the way there, kept for this
        return (cotangent @ dense(cotangent.dtype, given), *(mx.zeros_like(array) for array in arrays))

    made: Any = product
    return made
