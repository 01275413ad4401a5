"""Reads a safetensors header, without its data and without MLX.

Format: eight bytes little-endian length, a JSON object of that length, then the tensors' bytes
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import unreadable
from mlx_ltxw.parsing import Unsound, load_json, sound
from mlx_ltxw.printing import some
from mlx_ltxw.weights.remembered import remembered

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
"""Bits of one element, by safetensors dtype code."""

_LONGEST_HEADER = 16 << 20  # bytes; some 130,000 tensors, where LTX-2.3 has 6,000 (the format's own limit is 100 MB)
_MOST_AXES, _LONGEST_AXIS = 16, 2**48
_PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
_AGAIN = "Download or copy the file again."
_FOREIGN = {
    b"PK\x03\x04": "a zip archive, as PyTorch's pickle checkpoints are",
    **{b"\x80" + bytes([protocol]): "a Python pickle" for protocol in range(2, 6)},
    b"GGUF": "a GGUF file",
    b"\x89HDF": "an HDF5 file",
    b"version h": "a pointer of Git LFS, which stands for the file until it is fetched",
    **dict.fromkeys((b"<!", b"<h"), "a web page, as some downloads end in"),
}
_WHERE = {
    b"ver": "Run `git lfs pull` in its folder, or download the file itself.",
    b"<": "Download the file itself; the page may say why it was sent in its place.",
}


@dataclass(frozen=True)
class Tensor:
    """One entry of a header.

    Attributes:
        name: The tensor's name in the file.
        dtype: safetensors code, such as `BF16`.
        shape: In the file's layout.
        path: The file that holds the data.
        start, stop: Absolute byte range of the data in that file.
        apart: Bytes from the beginning of a row to that of the next, of a part of a tensor whose rows lie apart; 0
            where the data is in one piece.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    stop: int
    apart: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * BITS[self.dtype] // 8


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
        """Raises a UserError if the file ends before its last tensor does, or goes on behind it."""
        if self.present > self.length:
            raise _broken(self.path, f"{self.present - self.length:,} bytes follow its last tensor", _AGAIN)
        if self.present < self.length:
            raise UserError(
                f"{self.path} is truncated: {self.present:,} of {self.length:,} bytes are there.",
                _AGAIN,
            )


def read_header(path: Path) -> Header:
    """Reads the header of `path`; whether the data is complete is `Header.check_complete`'s question.

    Raises:
        UserError: no such file, unreadable, or not a safetensors file (pickles and GGUF are named).
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer would keep it waiting
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{path} is not a plain file.", "Name a .safetensors file.")
            start = file.read(9)
            length = int.from_bytes(start[:8], "little")
            _refuse_foreign(path, start, length)
            if len(start) < 8:
                raise _broken(path, "it is too short")
            if not 2 <= length <= _LONGEST_HEADER:
                raise _broken(path, f"its first eight bytes, {length:,}, are no length of a header")
            raw = start[8:] + file.read(length - 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise unreadable(path, error) from error
    if len(raw) < length:
        raise _broken(path, "it ends inside its header", _AGAIN)
    return parse_header(path, raw, found.st_size)


known_header = remembered(read_header)
"""As `read_header`, for a file of a model, whose headers are asked for again and again."""


def parse_header(path: Path, raw: bytes, size: int) -> Header:
    """Parses the JSON part of a header.

    Args:
        path: For messages, and as the tensors' file.
        raw: The JSON bytes.
        size: Bytes of the file on disk.

    Raises:
        UserError: not JSON, or entries that contradict one another; several are listed at once.
    """
    try:
        entries = load_json(raw)
    except Unsound as error:
        raise _broken(path, f"its header is damaged ({error})") from error
    if not isinstance(entries, dict):
        raise _broken(path, "its header is no table")
    metadata = _metadata(path, entries.pop("__metadata__", None))
    offset = 8 + len(raw)
    tensors, faults = {}, []
    for name, entry in entries.items():
        try:
            tensors[name] = _tensor(path, name, entry, offset)
        except ValueError as error:
            faults.append(f"{name}: {error}")
    if faults:
        raise _broken(path, "; ".join(some(faults)))
    end = offset
    for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.stop)):
        if tensor.start != end:
            raise _broken(path, f"its tensors overlap or leave gaps, at '{tensor.name}'")
        end = tensor.stop
    return Header(path, metadata, tensors, end, size)


def _metadata(path: Path, metadata: Any) -> dict[str, str]:
    metadata = {} if metadata is None else metadata  # MLX writes null for none
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken(path, "its metadata is not a table of texts")
    try:
        return sound(metadata)
    except Unsound as error:
        raise _broken(path, f"its metadata is damaged ({error})") from error


def _tensor(path: Path, name: str, entry: Any, offset: int) -> Tensor:
    """One entry; ValueError says what is wrong with it."""
    name.encode("utf-8")  # UnicodeEncodeError is a ValueError; a name that cannot be printed cannot be reported either
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError("its entry in the header is damaged")
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _counts(shape) or not _counts(span) or len(span) != 2:
        raise ValueError("its entry in the header is damaged")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"the dtype {dtype} is unknown")
    start, stop = span
    if math.prod(shape) * BITS[dtype] != 8 * (stop - start):
        raise ValueError(f"{stop - start} bytes do not hold {dtype} {shape}")
    return Tensor(name, dtype, tuple(shape), path, offset + start, offset + stop)


def _counts(value: Any) -> bool:
    """Whether a shape or span is a short list of whole numbers that a file can have."""
    if not isinstance(value, list) or len(value) > _MOST_AXES:
        return False
    return {*map(type, value)} <= {int} and min(value, default=0) >= 0 and max(value, default=0) < _LONGEST_AXIS


def _refuse_foreign(path: Path, start: bytes, length: int) -> None:
    """Names what a file is that is no safetensors; a length that looks like another format's mark is one all the same
    where a table follows it."""
    table = start[8:] == b"{" and length <= _LONGEST_HEADER
    kind = None if table else next((kind for magic, kind in _FOREIGN.items() if start.startswith(magic)), None)
    if kind is None and path.suffix.lower() in _PICKLES:
        kind = f"a {path.suffix} file"
    if kind:
        hint = "Use the .safetensors file that the model's publisher offers; pickles can run code and are never opened."
        hint = next((where for mark, where in _WHERE.items() if start.startswith(mark)), hint)
        raise UserError(f"{path} is {kind}, not safetensors.", hint)


def _broken(path: Path, why: str, hint: str = "Use a .safetensors file.") -> UserError:
    return UserError(f"{path} is not a whole safetensors file: {why}.", hint)
