"""Reads one tensor, checks it, and makes the bytes that are stored for it."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.header import Tensor
from mlx_ltxw.weights.stored import opened

from .plan import Entry
from .quantize import Quantization

_DAMAGED = "The file is damaged or comes from a failed training; download it again."

PIECE = 8 << 20
"""Elements handled at a time, so that a tensor of any size needs little memory of its own."""

_NUMPY = {
    "BOOL": "u1", "U8": "u1", "I8": "i1", "F8_E4M3": "u1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "BF16": "<u2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
"""NumPy dtype of each stored one; bfloat16 and fp8 as their bits."""


_LEAST_SCALE, _GREATEST_SCALE = 2.0**-100, 2.0**100
"""Of fp8 weights: with scales between these, every product is a bfloat16 of full precision."""


def pieces(entry: Entry) -> Iterator[np.ndarray]:
    """The bytes of an entry's arrays, in order, as flat contiguous NumPy arrays.

    Raises:
        UserError: NaN or infinite values, a bad fp8 scale, or a source file that can be read no more.
    """
    if entry.quantization:
        yield from _packed(entry, entry.quantization)
    elif entry.axes:
        yield np.ascontiguousarray(_gather(entry).transpose(entry.axes)).reshape(-1)
    else:
        yield from _converted(entry)


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """float32 to bfloat16 as uint16, rounded to nearest, ties to even; values must be finite."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def fp8_values() -> np.ndarray:
    """All 256 values of float8 e4m3 (no infinities; 0x7F and 0xFF are NaN), float32."""
    byte = np.arange(256)
    sign = np.where(byte & 0x80, -1.0, 1.0)
    exponent, mantissa = (byte >> 3) & 0xF, byte & 7
    values = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    return np.where((byte & 0x7F) == 0x7F, np.nan, sign * values).astype(np.float32)


def _read(tensor: Tensor, start: int, count: int) -> np.ndarray:
    """Some of the tensor's elements, flat."""
    dtype = np.dtype(_NUMPY[tensor.dtype])
    with opened(tensor.path) as read:
        return read(tensor.start + start * dtype.itemsize, count * dtype.itemsize).view(dtype)


def _check_finite(values: np.ndarray, tensor: Tensor) -> None:
    if tensor.dtype == "BF16":
        bad = (values & 0x7F80) == 0x7F80
    elif tensor.dtype == "F8_E4M3":
        bad = (values & 0x7F) == 0x7F
    elif values.dtype.kind == "f":
        bad = ~np.isfinite(values)
    else:
        return
    if count := int(np.count_nonzero(bad)):
        raise UserError(
            f"{tensor.name} in {tensor.path.name} has {count} values that are NaN or infinite.",
            _DAMAGED,
        )


def _converted(entry: Entry) -> Iterator[np.ndarray]:
    """The source's elements in its own order, in the stored dtype."""
    table = _fp8_table(entry) if entry.source.dtype == "F8_E4M3" else None
    for start in range(0, entry.source.elements, PIECE):
        piece = _read(entry.source, start, min(PIECE, entry.source.elements - start))
        _check_finite(piece, entry.source)
        if table is not None:
            piece = table[piece]
        elif entry.source.dtype == "F64":
            with np.errstate(over="ignore"):
                piece = piece.astype(np.float32)
            if not np.isfinite(piece).all():
                raise UserError(
                    f"{entry.source.name} in {entry.source.path.name} has values that float32 cannot hold.", _DAMAGED
                )
        yield piece


def _fp8_table(entry: Entry) -> np.ndarray:
    """bfloat16 bits of every fp8 value times the tensor's scale; multiplied in float32 and rounded once.

    Source: `ltx_core/quantization/fp8_cast.py:_build_prequant_fold_sd_ops`.
    """
    scale = np.float32(1)
    if entry.scale:
        value = _read(entry.scale, 0, 1)
        scale = (value.astype(np.uint32) << 16).view(np.float32)[0] if entry.scale.dtype == "BF16" else value[0]
        scale = np.float32(scale)
        if not _LEAST_SCALE < scale < _GREATEST_SCALE:  # not a number compares false, too
            raise UserError(f"{entry.scale.name} is {scale}, which is no scale.", "Download the checkpoint again.")
    return bfloat16_bits(np.nan_to_num(fp8_values()) * scale)


def _gather(entry: Entry) -> np.ndarray:
    """The whole tensor in the source's layout, in the stored dtype."""
    whole = np.empty(entry.source.elements, _NUMPY[entry.dtype])
    start = 0
    for piece in _converted(entry):
        whole[start : start + len(piece)] = piece
        start += len(piece)
    return whole.reshape(entry.source.shape)


def _packed(entry: Entry, how: Quantization) -> Iterator[np.ndarray]:
    """The weight in MLX's quantised form."""
    values = _gather(entry)
    weight = mx.array(values)
    if entry.dtype == "BF16":
        weight = weight.view(mx.bfloat16)
    parts = mx.quantize(weight, how.group_size, how.bits, how.mode)
    mx.eval(parts)
    packed, scales, *biases = (part.any().item() for part in parts)
    if values.any() and not ((scales and packed) or any(biases)):  # a constant is in the biases alone
        raise UserError(
            f"{entry.source.name} in {entry.source.path.name} becomes zero in {how.bits} bits ({how.mode}): its "
            f"largest value is {mx.abs(weight).max().item():.1g}.",
            "Choose another of the modes of {field:quantize}, or leave it out.",
        )
    for part in parts:
        yield np.array(part.view(mx.uint16) if part.dtype == mx.bfloat16 else part).reshape(-1)
    del weight, parts, part
    mx.clear_cache()
