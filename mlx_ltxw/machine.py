"""This machine: what MLX computes on, how much memory there is, and the settings that a process of ours makes.

Everything that depends on the device asks here. MLX is imported by the functions, so that a command may call `settle`
before it is loaded.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import platform
import re
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.cuda_graphs import avoid_cuda_graphs
from mlx_ltxw.heap import keep_freed_memory
from mlx_ltxw.tf32 import LATE, avoid_tf32, tf32_is_used
from mlx_ltxw.tf32 import VARIABLE as TF32

_SMALL_CACHE, _LARGE_CACHE = 256 << 20, 4 << 30


@dataclass(frozen=True)
class Machine:
    """What MLX's default device is and has.

    Attributes:
        backend: `metal`, `cuda` or `cpu`.
        total: Bytes of memory; unified on a Mac, the card's on CUDA.
        budget: Bytes that this process should use: Metal's recommended working set, what is free on a CUDA card, or
            the total.
        chosen: Whether the budget is less than that, since someone asked for less.
        blas_threads: In how many threads a CPU's matrix products are made.
    """

    backend: str
    total: int
    budget: int
    chosen: bool = False
    blas_threads: int = 1

    @property
    def in_pieces(self) -> bool:
        """Whether networks hand their work over block by block, instead of describing all of it first.

        On a GPU each block is under way while Python describes the next one, and no single job is so long that a Mac's
        display watchdog ends it.
        """
        return self.backend != "cpu"

    def within(self, memory: int | None) -> Machine:
        """The machine with no more than some bytes to use; None for all that it has."""
        if memory is None or memory >= self.budget:
            return self
        return dataclasses.replace(self, total=min(self.total, memory), budget=memory, chosen=True)

    @property
    def cache_limit(self) -> int:
        """For `mx.set_cache_limit`: the freed buffers that MLX keeps can otherwise grow past the model's own size.

        A bounded forward at 704x480x97 uses 1 GB of them, one at 1280x704x121 up to 3 GB, and takes no longer with 1
        GB (`docs/log.md`). On a CPU none are kept: the C library keeps what is freed (`heap.py`), in pieces of any
        size, and with both the process took three times the memory in the same time.
        """
        if self.backend == "cpu":
            return 0
        return max(_SMALL_CACHE, min(_LARGE_CACHE, self.total // 16))


def this_machine() -> Machine:
    """Reads MLX's device information, and the system's where MLX tells nothing (CPU)."""
    mx = _mlx()
    if on_cpu():
        from mlx_ltxw import blas

        total = host_memory()
        return Machine("cpu", total, total, blas_threads=blas.threads())
    info = mx.device_info()
    total = int(info.get("memory_size") or info["total_memory"])
    budget = info.get("max_recommended_working_set_size") or info.get("free_memory") or total
    return Machine("metal" if on_metal() else "cuda", total, int(budget))


def host_memory() -> int:
    """Bytes of the system's memory, beside which a card may have its own."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def on_cpu() -> bool:
    """Whether MLX computes on the CPU."""
    mx = _mlx()
    return mx.default_device() == mx.Device(mx.cpu)


def on_metal() -> bool:
    """Whether MLX computes on a Mac's GPU."""
    return not on_cpu() and _mlx().metal.is_available()


def on_cuda() -> bool:
    """Whether MLX computes on a card with memory of its own."""
    return not on_cpu() and not _mlx().metal.is_available()


def device_name() -> str:
    """What MLX's default device is called, such as `Apple M2 Max`."""
    return str(_mlx().device_info().get("device_name") or platform.processor() or "unknown")


def emulates_bfloat16() -> bool:
    """Whether MLX computes on a Mac's GPU that has no units for bfloat16: M1 and M2, which use float32's."""
    return on_metal() and bool(re.search(r"Apple M[12]\b", device_name()))


@functools.cache
def has_avx512() -> bool:
    """Whether this is a Linux machine whose x86 processor has AVX-512."""
    try:
        return " avx512f " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def slow_blas() -> list[str]:
    """A note for who computes on the CPU without the fast BLAS that Linux systems offer; else nothing."""
    from mlx_ltxw import blas

    if not on_cpu() or not blas.is_missing():
        return []
    return [
        "OpenBLAS is not installed, and without it MLX is several times slower on this CPU. On Debian and Ubuntu: "
        "`sudo apt install libopenblas0-pthread`; elsewhere any libopenblas.so.0 will do."
    ]


def late_tf32() -> list[str]:
    """A note for who let MLX multiply before anything here ran, so that it computes float32 in TF32; else nothing."""
    avoid_tf32()
    if on_cpu() or os.environ[TF32] != "0" or not tf32_is_used(_mlx()):
        return []
    return [LATE]


_NO_LIMIT = 1 << 60
_GIVEN_UP = threading.Event()
"""Set once an evaluation on the CPU ended in an error. MLX goes on counting the operations that it gave up as at work,
and above its memory limit it would wait for them for ever: such a process computes on without a limit."""


class Parts:
    """Tells MLX's CPU backend what each part of a run may hold.

    That backend describes up to a hundred operations ahead of the one at work, and allocates for all of them: three
    times what the work itself needs. Above its memory limit it waits instead, and looks at it every tenth operation.
    A GPU is handed bounded pieces in any case.

    Args:
        machine: Whose budget is never exceeded.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._known: dict[str, int] = {}

    def begin(self, name: str, weights: int, activations: int) -> None:
        """Begins a part, or goes on with one whose weights are in memory.

        Args:
            name: Of the part.
            weights: Bytes that it will load.
            activations: Bytes that it holds beside them.
        """
        if self._machine.in_pieces or _GIVEN_UP.is_set():
            return
        mx = _mlx()
        active = mx.get_active_memory()
        known = self._known.get(name)
        limit = active + weights + activations if known is None else max(known, active + activations)
        self._known[name] = limit
        mx.set_memory_limit(min(limit, self._machine.budget))


@contextmanager
def limits(machine: Machine) -> Iterator[Parts]:
    """MLX's limits while a run goes on: freed buffers it may keep, memory it should stay within, and on a Mac what may
    stay wired, so that the system does not page a model out between two steps. Put back afterwards.

    Yields:
        What narrows the second one, part by part.
    """
    mx = _mlx()
    cache = mx.set_cache_limit(machine.cache_limit)
    memory = mx.set_memory_limit(_NO_LIMIT if _GIVEN_UP.is_set() else machine.budget)
    wired = mx.set_wired_limit(machine.budget) if on_metal() else None
    try:
        yield Parts(machine)
    except RuntimeError:
        if on_cpu():
            _GIVEN_UP.set()
        raise
    finally:
        mx.set_cache_limit(cache)
        mx.set_memory_limit(memory)
        if wired is not None:
            mx.set_wired_limit(wired)


def peak_memory() -> int:
    """Bytes: the larger of MLX's own peak and the process's resident peak.

    MLX counts no memory of other libraries nor of mapped files, the system no GPU memory; on unified memory the two
    overlap.
    """
    return max(_mlx().get_peak_memory(), resident_memory())


def resident_memory() -> int:
    """Bytes of the process in memory at most so far, as the system counts; no GPU memory of its own."""
    own = _from_status("VmHWM")  # what the system's accounts say includes the process that started this one
    return own or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def beside_mlx() -> int:
    """Bytes of the process in memory now that are not MLX's arrays nor its freed buffers; where the system does not
    tell what is in memory now, the most so far."""
    mx = _mlx()
    held = mx.get_active_memory() + mx.get_cache_memory()
    return max(0, (_from_status("VmRSS") or resident_memory()) - held)


def _from_status(name: str) -> int:
    """A size of Linux's status of this process, in bytes; 0 elsewhere."""
    try:
        with open("/proc/self/status") as file:
            found = next((line.split()[1] for line in file if line.startswith(f"{name}:")), "0")
    except OSError:
        return 0
    return int(found) * 1024


def settle() -> None:
    """Makes the settings that MLX's work gains from: no CUDA graphs, no TF32, freed memory kept on Linux.

    They are the whole process's, so importing makes none of them; the command and each run call this. What the user has
    set otherwise stays.
    """
    avoid_cuda_graphs()
    avoid_tf32()
    keep_freed_memory()


def _mlx() -> Any:
    import mlx_ltxw.blas  # noqa: F401  # before MLX

    return importlib.import_module("mlx.core")
