"""Reads a safetensors header, without its data and without MLX.

Format: eight bytes little-endian length, a JSON object of that length, then the tensors' bytes
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
"""Bits of one element, by safetensors dtype code."""

_LONGEST_HEADER = 100_000_000  # the format's own limit
_FOREIGN = {
    b"PK\x03\x04": "a zip archive, as PyTorch's pickle checkpoints are",
    b"\x80\x02": "a Python pickle",
    b"GGUF": "a GGUF file",
    b"\x89HDF": "an HDF5 file",
}


@dataclass(frozen=True)
class Tensor:
    """One entry of a header.

    Attributes:
        name: As in the file.
        dtype: safetensors code, such as `BF16`.
        shape: In the file's layout.
        path: The file that holds the data.
        start, stop: Absolute byte range of the data in that file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    stop: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Header:
    """A safetensors file's metadata and tensors.

    Attributes:
        path: The file; of a header fetched alone, its name.
        metadata: The `__metadata__` strings.
        tensors: By name, in the file's order.
        length: Bytes that the file must have.
        present: Bytes that it has.
    """

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    length: int
    present: int

    def check_complete(self) -> None:
        """Raises a UserError if the file ends before its last tensor does."""
        if self.present < self.length:
            raise UserError(
                f"{self.path} is truncated: {self.present:,} of {self.length:,} bytes are there.",
                "Download or copy the file again.",
            )


def read_header(path: Path) -> Header:
    """Reads the header of `path`; whether the data is complete is `Header.check_complete`'s question.

    Raises:
        UserError: no such file, unreadable, or not a safetensors file (pickles and GGUF are named).
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = file.read(8)
            _refuse_foreign(path, start)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= _LONGEST_HEADER:
                raise _broken(path, "its first eight bytes are no header length")
            raw = file.read(length)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions.") from error
    if len(raw) < length:
        raise _broken(path, "it ends inside its header", "Download or copy the file again.")
    return parse_header(path, raw, size)


def parse_header(path: Path, raw: bytes, size: int) -> Header:
    """Parses the JSON part of a header.

    Args:
        path: For messages, and as the tensors' file.
        raw: The JSON bytes.
        size: Bytes of the file on disk.

    Raises:
        UserError: not JSON, or entries that contradict one another.
    """
    try:
        entries = json.loads(raw)
        metadata = entries.pop("__metadata__", {})
        offset = 8 + len(raw)
        tensors = {name: _tensor(path, name, entry, offset) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _broken(path, f"its header does not parse ({error})") from error
    end = offset
    for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.stop)):
        if tensor.start != end:
            raise _broken(path, f"the data of '{tensor.name}' overlaps or leaves a gap")
        end = tensor.stop
    return Header(path, metadata, tensors, end, size)


def _tensor(path: Path, name: str, entry: dict[str, Any], offset: int) -> Tensor:
    dtype, shape = entry["dtype"], tuple(int(n) for n in entry["shape"])
    start, stop = (int(n) for n in entry["data_offsets"])
    if dtype not in BITS:
        raise ValueError(f"'{name}' has the unknown dtype {dtype}")
    if any(n < 0 for n in shape) or math.prod(shape) * BITS[dtype] != 8 * (stop - start):
        raise ValueError(f"'{name}' {list(shape)} {dtype} does not fill its {stop - start} bytes")
    return Tensor(name, dtype, shape, path, offset + start, offset + stop)


def _refuse_foreign(path: Path, start: bytes) -> None:
    kind = next((kind for magic, kind in _FOREIGN.items() if start.startswith(magic)), None)
    if kind is None and path.suffix in {".ckpt", ".pt", ".pth", ".bin"}:
        kind = f"a {path.suffix} file"
    if kind:
        raise UserError(
            f"{path} is {kind}, not safetensors.",
            "Use the .safetensors file that the model's publisher offers; pickles can run code and are never opened.",
        )


def _broken(path: Path, why: str, hint: str = "Use a .safetensors file.") -> UserError:
    return UserError(f"{path} is not a whole safetensors file: {why}.", hint)
