"""What the worker can do: one function for each kind of job. It runs in the worker's process, never in the server's."""

from __future__ import annotations

import importlib

from mlx_ltxw.studio.place import DoWork

KINDS = {
    "clip": "mlx_ltxw.studio.work_clip",
    "script": "mlx_ltxw.studio.work_clip",
    "train": "mlx_ltxw.studio.work_train",
}
"""Kind of job -> the module whose `work` does it; loaded when one is asked for."""


def work_of(kind: str) -> DoWork:
    """The function that does a kind of job."""
    work: DoWork = importlib.import_module(KINDS[kind]).work
    return work
