"""Arrays to a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from mlx_ltxw.files import replacing, write_errors


def save_arrays(path: Path, arrays: Mapping[str, mx.array], metadata: Mapping[str, str]) -> None:
    """Writes arrays and metadata, whole or not at all; the folder is made if need be.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, write_errors(path), partial.open("wb") as file:  # a name would get an ending
        mx.save_safetensors(file, dict(arrays), dict(metadata))
