"""Writes safetensors files as a stream: header first, then one tensor after the other, then the final name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from mlx_ltxw.files import replacing, write_errors
from mlx_ltxw.weights.manifest import FileRecord

from .plan import Shard
from .tensors import pieces

CONTINUES = "Free some space and run the same command again: it continues where it stopped."
"""What to do about a full disk."""


def header_bytes(shard: Shard) -> bytes:
    """Length and JSON of a shard's safetensors header, padded to eight bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for array in (array for entry in shard.entries for array in entry.arrays):
        span = [offset, offset + array.nbytes]
        entries[array.name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": span}
        offset += array.nbytes
    raw = json.dumps(entries, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def write_shard(directory: Path, shard: Shard, progress: Callable[[int], object]) -> FileRecord:
    """Writes one file; under its name it is whole or absent.

    Args:
        directory: The model directory.
        shard: What goes in.
        progress: Gets the bytes of each piece.

    Raises:
        UserError: the disk is full or not writable, or a tensor is damaged.
    """
    path = directory / shard.file
    digest, size = hashlib.sha256(), 0
    with write_errors(path, CONTINUES):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, write_errors(path, CONTINUES), part.open("wb") as file:
        for piece in _stream(shard):
            file.write(piece)
            digest.update(piece)
            size += len(piece)
            progress(len(piece))
            del piece  # the next tensor is read when this one is gone
    return FileRecord(size, digest.hexdigest())


def _stream(shard: Shard) -> Iterator[memoryview]:
    yield memoryview(header_bytes(shard))
    for entry in shard.entries:
        expected, written = entry.nbytes, 0
        for piece in pieces(entry):
            written += piece.nbytes
            yield piece.data.cast("B")
            del piece
        if written != expected:
            raise RuntimeError(f"{entry.name} has {written} bytes instead of {expected}")
