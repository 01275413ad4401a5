"""LTX-2.3 audio-video generation in MLX, with adapters that whisper.

    import mlx_ltxw as ltx

    clip = ltx.load().generate('a woman in dim light, (woman, whispering): "close your eyes"', adapter="whisper")
    clip.save("out.mp4")

Importing the package loads nothing and changes nothing in the process; each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as type checkers read it; importing `typing` would take longer than all else here
if TYPE_CHECKING:
    from typing import Any

    from mlx_ltxw.api import (
        Adapted,
        Clip,
        Conditioned,
        Decoded,
        Event,
        Guidance,
        Measurement,
        Model,
        Request,
        Resumed,
        Step,
        convert,
        export,
        inspect,
        load,
        measure,
        train,
    )
    from mlx_ltxw.errors import UserError

__version__ = "0.1.0"

__all__ = [
    "Adapted",
    "Clip",
    "Conditioned",
    "Decoded",
    "Event",
    "Guidance",
    "Measurement",
    "Model",
    "Request",
    "Resumed",
    "Step",
    "UserError",
    "__version__",
    "convert",
    "export",
    "inspect",
    "load",
    "measure",
    "train",
]

_ROOMS = {"convert": "mlx_ltxw.convert", "train": "mlx_ltxw.train"}
"""Rooms that are called like functions (see their `__init__`): the import system binds their names to them."""


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(_ROOMS[name])
    if name == "UserError":
        return importlib.import_module("mlx_ltxw.errors").UserError
    if name in __all__:
        return getattr(importlib.import_module("mlx_ltxw.api"), name)
    raise AttributeError(f"module 'mlx_ltxw' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
