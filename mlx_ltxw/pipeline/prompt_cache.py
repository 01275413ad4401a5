"""Text contexts on disk, so that a second run with the same prompt loads no text encoder.

What is kept is what the transformer reads, after the connectors (12.6 MB a prompt in bf16 for LTX-2.3): nothing of the
text side is needed then, where earlier features would still take the connectors. A file's name is a hash of all that
made it; the prompt itself is nowhere in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_ltxw import __version__, blas
from mlx_ltxw.cache_folder import cache_folder
from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import on_cpu
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.saving import save_arrays

LARGEST = 2 << 30
"""Bytes of all files; those that were not read for longest go first."""

_FORMAT = 2
_CONTENT = "sha256"
_SUFFIX = ".safetensors"

Context = tuple[mx.array, mx.array]
"""A prompt as video and audio read it: (1, S, Dv) and (1, S, Da)."""


def default_folder() -> Path | None:
    """Where contexts are kept; None where nothing is to be."""
    return cache_folder("prompts")


class PromptCache:
    """Contexts of one model's prompts. What cannot be read or written is as if it were not there.

    Args:
        model: Made them.
        dtype: Theirs.
        folder: Of all models; None keeps nothing.
        largest: Bytes of all files.
    """

    def __init__(self, model: ModelDir, dtype: mx.Dtype, folder: Path | None, largest: int = LARGEST) -> None:
        self.folder = folder
        self.largest = largest
        maker = [
            _FORMAT,
            __version__,
            mx.__version__,  # type: ignore[attr-defined]
            str(mx.default_device()),
            blas.identity() if on_cpu() else "",
            str(dtype),
            [] if folder is None else sorted(model.text_digests().items()),
        ]
        self._maker = json.dumps(maker)

    def file(self, prompt: str) -> Path | None:
        """Where a prompt's contexts are, or would be."""
        if self.folder is None:
            return None
        digest = hashlib.sha256(json.dumps([self._maker, prompt]).encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / f"{digest}{_SUFFIX}"

    def read(self, prompt: str) -> Context | None:
        """A prompt's contexts; None when they are not there, or damaged and now gone."""
        path = self.file(prompt)
        if path is None or not path.is_file():
            return None
        try:
            loaded: Any = mx.load(str(path), return_metadata=True)
            arrays, metadata = loaded
            video, audio = arrays["video"], arrays["audio"]
            if metadata.get(_CONTENT) != _content((video, audio)):
                raise ValueError("these are not the tensors that were written")
            os.utime(path)
        except (OSError, RuntimeError, KeyError, ValueError):
            with suppress(OSError):
                path.unlink()
            return None
        return video, audio

    def write(self, prompt: str, context: Context) -> None:
        """Keeps a prompt's contexts, whole or not at all, and lets the oldest go."""
        path = self.file(prompt)
        if path is None:
            return
        with suppress(OSError, UserError, RuntimeError):  # a full disk is no reason to stop a run
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            save_arrays(path, {"video": context[0], "audio": context[1]}, {_CONTENT: _content(context)})
            self._shrink()

    def _shrink(self) -> None:
        """Lets the files go that were not read for longest, unless another process is at it."""
        assert self.folder is not None
        with _alone(self.folder) as alone:
            if not alone:
                return
            files = sorted(
                ((path.stat(), path) for path in self.folder.glob(f"*{_SUFFIX}")), key=lambda f: f[0].st_mtime
            )
            total = sum(stat.st_size for stat, _ in files)
            for stat, path in files[:-1]:
                if total <= self.largest:
                    break
                path.unlink(missing_ok=True)
                total -= stat.st_size


def _content(context: Context) -> str:
    """sha256 of the tensors, their dtypes and shapes included."""
    digest = hashlib.sha256()
    for array in context:
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.asarray(mx.contiguous(array).view(mx.uint8)).data)
    return digest.hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no other process is clearing the folder; none begins while this one is."""
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
