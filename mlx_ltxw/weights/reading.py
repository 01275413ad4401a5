"""Reads tensors of safetensors files from any thread: what is wanted, when it is wanted, as often as it is wanted.

`mx.load` reads a tensor once, in MLX's own time. This reader can be asked again for the same one, in a thread beside
the computation, and reads into memory that it is given; it runs nothing of MLX's graph, which one thread alone may do,
and keeps no other thread from running.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_ltxw.files import lost
from mlx_ltxw.weights.header import Tensor

DTYPES = {
    "BOOL": mx.bool_, "U8": mx.uint8, "I8": mx.int8, "U16": mx.uint16, "I16": mx.int16, "F16": mx.float16,
    "BF16": mx.bfloat16, "U32": mx.uint32, "I32": mx.int32, "F32": mx.float32, "U64": mx.uint64, "I64": mx.int64,
}  # fmt: skip
"""MLX's dtypes of safetensors' codes."""

_PIECE = 8 << 20
"""Bytes of one read: several at a time keep an SSD busy."""

_READERS = max(8, min(16, os.cpu_count() or 8))
"""Threads: memory gives 16 of them half as much again as 8 (decision 17)."""


class TensorReader:
    """Reads tensors.

    Args:
        keep_cached: Whether the system may keep what was read in memory. False where more is read than there is room
            for: each read would push out the next one's bytes, and other programs' too.

    Attributes:
        bytes_read: Since it was made.
    """

    def __init__(self, keep_cached: bool = True) -> None:
        self.keep_cached = keep_cached
        self.bytes_read = 0
        self._counting = threading.Lock()
        self._closed = False
        self._stamps: dict[Path, tuple[int, ...]] = {}
        self._pool = ThreadPoolExecutor(_READERS, "read")

    def fill(self, places: Sequence[tuple[Tensor, memoryview]]) -> None:
        """Reads whole tensors, now.

        Args:
            places: Each with the memory that takes its bytes.

        Raises:
            UserError: a file that is gone, cut off, another one than at the first reading, or cannot be read.
            CancelledError: the reader was closed meanwhile.
        """
        with self._opened(tensor for tensor, _ in places) as files:
            pieces = [
                (tensor, at, into[at : at + step])
                for tensor, into in places
                for step in [_step(tensor)]
                for at in range(0, len(into), step)
            ]
            self._read_pieces(files, pieces)
        self._count(sum(len(into) for _, into in places))

    def rows(self, tensor: Tensor, indices: Sequence[int]) -> np.ndarray:
        """Some rows of a tensor, (rows, bytes of a row) uint8.

        Raises:
            UserError: as `arrays`.
        """
        width = tensor.nbytes // tensor.shape[0]
        result = np.empty((len(indices), width), np.uint8)
        with self._opened([tensor]) as files:
            for row, index in zip(result, indices, strict=True):
                self._read_piece(files, tensor, index * width, row.data)
        self._count(result.nbytes)
        return result

    def close(self) -> None:
        """Ends the reading threads, each after the piece it is at."""
        self.abandon()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def abandon(self) -> None:
        """Lets no piece begin any more; the threads end when nobody has the reader.

        Takes no lock, so that a finaliser may call it: that runs in any thread, in the midst of what that is doing, and
        a thread which holds the pool's lock just then would wait for itself.
        """
        self._closed = True

    def _read_pieces(self, files: Mapping[Path, int], pieces: Iterable[tuple[Tensor, int, memoryview]]) -> None:
        """Reads pieces, several at a time; none is still being read afterwards, whatever became of the others: the
        memory and the files' handles are for others then."""
        readings: list[Future[None]] = []
        try:
            readings.extend(self._pool.submit(self._read_piece, files, *piece) for piece in pieces)
            for _ in map(Future.result, readings):
                pass
        finally:
            while readings:  # none by a name here: what failed must not hold itself, and the reader with it
                _end(readings.pop())

    def _count(self, nbytes: int) -> None:
        with self._counting:
            self.bytes_read += nbytes

    @contextmanager
    def _opened(self, tensors: Iterable[Tensor]) -> Iterator[dict[Path, int]]:
        files: dict[Path, int] = {}
        try:
            for tensor in tensors:
                if tensor.path not in files:
                    files[tensor.path] = self._open(tensor.path)
            yield files
        finally:
            for handle in files.values():
                os.close(handle)

    def _open(self, path: Path) -> int:
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise lost(path, error.strerror) from error
        found = os.fstat(handle)
        stamp = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
        if self._stamps.setdefault(path, stamp) != stamp:  # a clip of two models' blocks would come of it
            os.close(handle)
            raise lost(path, "it is another file than before")
        if not self.keep_cached and hasattr(fcntl, "F_NOCACHE"):
            fcntl.fcntl(handle, fcntl.F_NOCACHE, 1)
        return handle

    def _read_piece(self, files: Mapping[Path, int], tensor: Tensor, start: int, into: memoryview) -> None:
        """Fills `into` from a byte of a tensor on; whole rows where they lie apart."""
        if self._closed:
            raise CancelledError
        handle, at = files[tensor.path], tensor.start + start
        if not tensor.apart:
            self._read_run(handle, tensor.path, at, into)
            self._forget(handle, at, len(into))
            return
        width = _width(tensor)
        at = tensor.start + start // width * tensor.apart
        for row in range(len(into) // width):
            self._read_run(handle, tensor.path, at + row * tensor.apart, into[row * width : (row + 1) * width])
        self._forget(handle, at, len(into) // width * tensor.apart)

    def _read_run(self, handle: int, path: Path, at: int, into: memoryview) -> None:
        """Fills `into` from a byte of a file on."""
        done = 0
        while done < len(into):
            try:
                count = os.preadv(handle, [into[done:]], at + done)
            except OSError as error:
                raise lost(path, error.strerror) from error
            if not count:
                raise lost(path, "it has become shorter")
            done += count

    def _forget(self, handle: int, at: int, length: int) -> None:
        """Lets the system use the memory in which it has kept a part of a file."""
        if not self.keep_cached and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, at, length, os.POSIX_FADV_DONTNEED)


def _end(reading: Future[None]) -> None:
    """Takes back a piece that is not being read yet, or waits for it."""
    if not reading.cancel():
        reading.exception()


def _width(tensor: Tensor) -> int:
    """Bytes of a row."""
    return tensor.nbytes // tensor.shape[0]


def _step(tensor: Tensor) -> int:
    """Bytes of one piece of a tensor: whole rows where they lie apart."""
    return max(1, _PIECE // _width(tensor)) * _width(tensor) if tensor.apart else _PIECE
