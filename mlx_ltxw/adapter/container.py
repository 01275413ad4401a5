"""The safetensors file of an adapter: every byte checked before it becomes an array; written whole or not at all.

Adapters come from strangers, so the header is read here and not by a library: pickles are refused unread, and a file
that is cut short, overlaps or lies about its size gives one sentence instead of a traceback.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_ltxw.errors import UserError

_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
}
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


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
    header, start = _read_header(path)
    metadata = _metadata(path, header.pop("__metadata__", None) or {})  # MLX writes null for none
    data = np.memmap(path, mode="r", dtype=np.uint8)[start:] if path.stat().st_size > start else np.zeros(0, np.uint8)
    tensors, faults, spans = {}, [], []
    for name, entry in header.items():
        try:
            span, array = _tensor(entry, data, name.endswith("alpha"))
        except ValueError as error:
            faults.append(f"{name}: {error}")
            continue
        spans.append(span)
        tensors[name] = array
    edges = [(0, 0), *sorted(spans), (data.size, data.size)]
    if not faults and any(end != following[0] for (_, end), following in itertools.pairwise(edges)):
        faults.append("its tensors overlap or leave gaps")  # a byte lost or added shifts all that follow
    if faults:
        raise bad_file(path, "; ".join(some(faults)))
    return TensorFile(path, tensors, metadata)


def tensor_names(path: Path) -> list[str]:
    """The names alone, from the header.

    Raises:
        UserError: as `read_tensors` does for a damaged header.
    """
    header, _ = _read_header(path)
    return [name for name in header if name != "__metadata__"]


def write_tensors(path: Path, tensors: Mapping[str, mx.array], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file through a temporary neighbour, so that nothing half-written bears the final name.

    Raises:
        UserError: a value is not finite, or the folder cannot be written.
    """
    bad = [name for name, array in tensors.items() if not mx.all(mx.isfinite(array.astype(mx.float32))).item()]
    if bad:
        raise UserError(
            f"The adapter holds NaN or infinite values and was not saved: {', '.join(some(bad))}.",
            "Lower the learning rate and go on from an earlier checkpoint.",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".safetensors")
        os.close(handle)
        try:
            mx.save_safetensors(temporary, dict(tensors), dict(metadata))
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error.strerror}.", "Choose another file with -o.") from error


def bad_file(path: Path, why: str) -> UserError:
    """The error for a file that is no sound adapter."""
    return UserError(f"'{path}' is not a sound adapter file: {why}.", "Download or export the adapter again.")


def some(items: list[str], limit: int = 8) -> list[str]:
    """The first few of a list, and how many more there are."""
    return items if len(items) <= limit else [*items[:limit], f"and {len(items) - limit} more"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The parsed header and where the data starts."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")) or (
                path.suffix.lower() in _PICKLES
            ):
                raise UserError(
                    f"'{path}' is a pickle, which can run code when it is opened.",
                    "Use the adapter's .safetensors file.",
                )
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise bad_file(path, "the length of its header is wrong" if len(start) == 8 else "it is too short")
            text = file.read(length)
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}.", "Check the path of the adapter.") from error
    try:
        header = json.loads(text, object_pairs_hook=_unique)
        json.dumps(header, ensure_ascii=False).encode()  # a name that cannot be printed cannot be reported either
    except (ValueError, RecursionError) as error:
        raise bad_file(path, f"its header is damaged ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise bad_file(path, "its header is no table")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _metadata(path: Path, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise bad_file(path, "its metadata is not a table of texts")
    return metadata


def _tensor(entry: Any, data: np.ndarray, may_be_infinite: bool = False) -> tuple[tuple[int, int], mx.array]:
    """One tensor and its byte span; ValueError with the reason when it is unsound."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError("its entry in the header is damaged")
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _counts(shape) or not _counts(span) or len(span) != 2:
        raise ValueError("its entry in the header is damaged")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"dtype {dtype} is not one adapters have (F32, F16, BF16)")
    begin, end = span
    if end - begin != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise ValueError(f"{end - begin} bytes do not hold {dtype} {shape}")
    if end > data.size:
        raise ValueError("the file ends before it")
    values = np.frombuffer(data[begin:end].tobytes(), dtype=_DTYPES[dtype]).reshape(shape)
    if dtype == "F64":
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
    if not may_be_infinite and not _finite(values, dtype):
        raise ValueError("holds NaN or infinite values")
    array = mx.array(values)
    return (begin, end), array.view(mx.bfloat16) if dtype == "BF16" else array


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**48 for n in value)


def _finite(values: np.ndarray, dtype: str) -> bool:
    if dtype == "BF16":
        return not np.any((values & 0x7F80) == 0x7F80)  # all exponent bits set: infinity or NaN
    return bool(np.isfinite(values).all())
