"""Writes safetensors files one tensor at a time, or as a header over empty space."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

DTYPE_NAMES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float8_e4m3fn: "F8_E4M3"}


class Entry(NamedTuple):
    """A tensor of the file, before it is made."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Plan(NamedTuple):
    """A file's header, padded to eight bytes, and where each tensor ends."""

    header: bytes
    entries: dict[str, Entry]
    total: int


def plan(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> Plan:
    """Lays the tensors out one after another, in the given order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, entry in entries.items():
        start, end = end, end + entry.size
        header[name] = {"dtype": DTYPE_NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return Plan(struct.pack("<Q", len(text)) + text, dict(entries), end)


def write(path: Path, layout: Plan, tensors: Iterable[tuple[str, torch.Tensor]] | None) -> Path:
    """Writes the file; without tensors, the data is a hole of the right length, which takes no space on the disk.

    Raises:
        ValueError: the tensors are not those of the layout, in its order.
    """
    with path.open("wb") as file:
        file.write(layout.header)
        if tensors is None:
            file.truncate(len(layout.header) + layout.total)
            return path
        expected = iter(layout.entries.items())
        for name, tensor in tensors:
            entry = next(expected)
            if entry != (name, Entry(tuple(tensor.shape), tensor.dtype)):
                raise ValueError(f"{name} {tuple(tensor.shape)} {tensor.dtype} where {entry} was planned")
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        if next(expected, None) is not None:
            raise ValueError("some planned tensors were not made")
    return path
