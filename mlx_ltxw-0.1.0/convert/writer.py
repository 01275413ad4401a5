"""Writes safetensors files as a stream: header first, then one tensor after the other, then the final name."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.manifest import FileRecord, settle

from .plan import Shard
from .tensors import pieces

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def header_bytes(shard: Shard) -> bytes:
    """Length and JSON of a shard's safetensors header, padded to eight bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for array in (array for step in shard.steps for array in step.arrays):
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
    part = path.with_name(path.name + ".part")
    digest, size = hashlib.sha256(), 0
    with explained_writes(directory):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                for piece in _stream(shard):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                    progress(len(piece))
                    del piece  # the next tensor is read when this one is gone
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        settle(part, path)
    return FileRecord(size, digest.hexdigest())


@contextmanager
def explained_writes(directory: Path) -> Iterator[None]:
    """Turns a full or read-only disk into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"There is no space left for {directory} ({error.strerror}).",
                "Free some space and run the same command again: it continues where it stopped.",
            ) from error
        raise UserError(
            f"{directory} cannot be written ({error.strerror or error}).", "Choose another directory with -o."
        ) from error


def _stream(shard: Shard) -> Iterator[memoryview]:
    yield memoryview(header_bytes(shard))
    for step in shard.steps:
        expected, written = step.nbytes, 0
        for piece in pieces(step):
            written += piece.nbytes
            yield piece.data.cast("B")
            del piece
        if written != expected:
            raise RuntimeError(f"{step.name} has {written} bytes instead of {expected}")
