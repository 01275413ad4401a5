"""All of it, in the order in which it is shown."""

from __future__ import annotations

from collections.abc import Iterator

from mlx_ltxw.doctor.diagnosis import Diagnosis
from mlx_ltxw.doctor.machine import device, disk, kept, memory, settings, system
from mlx_ltxw.doctor.models import login, models
from mlx_ltxw.doctor.self_test import self_test
from mlx_ltxw.machine import this_machine


def examine(model: str | None = None, verify: bool = False) -> Iterator[Diagnosis]:
    """Looks at everything.

    Args:
        model: One to look at beside those that are found.
        verify: Hashes every file of every model.

    Yields:
        What was found, as it is found.
    """
    machine = this_machine()
    yield system()
    yield device(machine)
    yield memory(machine)
    yield from disk()
    yield kept()
    yield from settings(machine)
    yield login()
    yield from models(model, verify)
    yield self_test()
