"""Opens a model directory in whichever layout it is."""

from __future__ import annotations

from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.split_dir import SplitDir
from mlx_ltxw.weights.split_layout import is_split


def open_dir(path: str | Path, transformer: str = "") -> ModelDir:
    """What `convert` wrote, or a directory in the split layout of ltx-2-mlx.

    Args:
        path: The directory.
        transformer: In the split layout, the file to use where there are several.

    Raises:
        UserError: no such directory, a file, an unfinished conversion, or a damaged model.
    """
    directory = Path(path)
    if directory.is_file():
        raise UserError(
            f"{directory} is a file, and a model is a directory.",
            f"If it is a checkpoint, make a model of it with `mlx-ltxw convert {directory} -o DIR`.",
        )
    if transformer or (directory.is_dir() and is_split({file.name for file in directory.iterdir()})):
        return SplitDir.open(directory, transformer)
    return ModelDir.open(directory)
