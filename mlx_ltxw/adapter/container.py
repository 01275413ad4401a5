"""The safetensors file of an adapter: every byte checked before it becomes an array; written whole or not at all.

Adapters come from strangers: pickles are refused unread, and a file that is cut short, overlaps or lies about its size
gives one sentence instead of a traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.printing import some
from mlx_ltxw.weights.header import Tensor, read_header
from mlx_ltxw.weights.saving import save_arrays
from mlx_ltxw.weights.stored import ReadBytes, opened

_MOST_TENSORS = 50_000
"""LTX-2.3 has some 2,500 linears; a change of one has nine tensors at most."""

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
}


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file in memory.

    Attributes:
        path: Where it lies.
        tensors: Name -> array, in the file's dtype (F64 as fp32); all values finite, but for an alpha,
            which not every method uses.
        metadata: The header's `__metadata__`.
    """

    path: Path
    tensors: dict[str, mx.array]
    metadata: dict[str, str]


def read_tensors(path: Path) -> TensorFile:
    """Reads a whole adapter file.

    Raises:
        UserError: the file is missing, a pickle, cut short, malformed, holds a dtype that adapters never have, or a
            value that is not finite; every bad tensor is listed.
    """
    header = read_header(path)
    header.check_complete()
    if len(header.tensors) > _MOST_TENSORS:
        raise bad_file(
            path, f"it holds {len(header.tensors):,} tensors, and no adapter has more than {_MOST_TENSORS:,}"
        )
    tensors, faults = {}, []
    with opened(path) as read:
        for name, entry in header.tensors.items():
            try:
                tensors[name] = array(entry, read, may_be_infinite=name.endswith("alpha"))
            except ValueError as error:
                faults.append(f"{name}: {error}")
    if faults:
        raise bad_file(path, "; ".join(some(faults)))
    return TensorFile(path, tensors, dict(header.metadata))


def tensor_names(path: Path) -> list[str]:
    """The names alone, from the header.

    Raises:
        UserError: as `read_tensors` does for a damaged header.
    """
    return list(read_header(path).tensors)


def write_tensors(path: Path, tensors: Mapping[str, mx.array], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file, whole or not at all.

    Raises:
        UserError: a value is not finite, or the folder cannot be written.
    """
    bad = [name for name, array in tensors.items() if not mx.all(mx.isfinite(array.astype(mx.float32))).item()]
    if bad:
        raise UserError(
            f"The adapter holds NaN or infinite values and was not saved: {', '.join(some(bad))}.",
            "Lower the learning rate and go on from an earlier checkpoint.",
        )
    save_arrays(path, tensors, metadata)


def bad_file(path: Path, why: str) -> UserError:
    """The error for a file that is no sound adapter."""
    return UserError(f"'{path}' is not a sound adapter file: {why}.", "Download or export the adapter again.")


def array(entry: Tensor, read: ReadBytes, may_be_infinite: bool = False) -> mx.array:
    """One tensor's values, in the file's dtype (F64 and F8_E4M3 as fp32, F8_E5M2 as fp16).

    Args:
        entry: The tensor's line in the header.
        read: Its file, opened.
        may_be_infinite: Accept values that are not finite.

    Raises:
        ValueError: a dtype that adapters never have, or values that are not finite.
        UserError: the disk does not give it.
    """
    if entry.dtype not in _DTYPES:
        raise ValueError(f"dtype {entry.dtype} is not one adapters have (F32, F16, BF16, F8)")
    values = read(entry.start, entry.nbytes).view(_DTYPES[entry.dtype]).reshape(entry.shape)
    if entry.dtype == "F64":
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
    if entry.dtype == "F8_E5M2":  # the upper half of a float16
        values = (values.astype(np.uint16) << 8).view(np.float16)
    if entry.dtype == "F8_E4M3":
        values = np.array(mx.from_fp8(mx.array(values), mx.float32))
    if not may_be_infinite and not _finite(values, entry.dtype):
        raise ValueError("holds NaN or infinite values")
    made = mx.array(values)
    return made.view(mx.bfloat16) if entry.dtype == "BF16" else made


def _finite(values: np.ndarray, dtype: str) -> bool:
    if dtype == "BF16":
        return not np.any((values & 0x7F80) == 0x7F80)  # all exponent bits set: infinity or NaN
    return bool(np.isfinite(values).all())
