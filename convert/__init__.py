"""PyTorch checkpoints to model directories.

The room is also the function of its name: `mlx_ltxw.convert("ltx-2.3-22b-dev.safetensors", "ltx23", text_encoder=...)`
is `mlx_ltxw.convert.face.convert`, whether or not a module of the room was imported before.
"""

import sys
from types import ModuleType
from typing import Any

import mlx_ltxw.blas  # noqa: F401  # before MLX


class _Room(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from .face import convert

        return convert(*arguments, **options)


sys.modules[__name__].__class__ = _Room
