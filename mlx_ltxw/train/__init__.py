"""Training of adapters.

The room is also the function of its name: `mlx_ltxw.train("clips", "runs/whisper", steps=500)` is
`mlx_ltxw.train.face.train`, whether or not a module of the room was imported before.
"""

import sys
from types import ModuleType
from typing import Any

import mlx_ltxw.blas  # noqa: F401  # before MLX


class _Room(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from mlx_ltxw.train.face import train

        return train(*arguments, **options)


sys.modules[__name__].__class__ = _Room
