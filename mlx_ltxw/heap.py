"""Keeps freed memory in the process on Linux, where MLX's CPU backend asks the C library for every array.

glibc gives blocks of some megabytes back to the system when they are freed, and the system clears their pages when they
are asked for again: each large result of an operation is paid for twice, since MLX's CPU backend keeps none of its
buffers (`Machine.cache_limit`; of its own accord 32 MB). Encoding
the clips of a training run takes 79 s that way and 60 s without (`docs/log.md`), for four tenths more memory.
"""

from __future__ import annotations

import ctypes
import os
import sys

VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""glibc's own; where one of them is set it is left to decide."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # `M_TRIM_THRESHOLD`, `M_MMAP_THRESHOLD` of malloc.h
_KEPT = 1 << 30  # bytes at the end of the heap that stay
_FROM_HEAP = 1 << 26  # bytes of the largest block that comes from the heap


def keep_freed_memory() -> bool:
    """Tells glibc to keep up to a gigabyte of freed memory, and to take blocks of up to 64 MiB from it.

    Returns:
        Whether it does so. False where a variable decides, and where the C library is another one.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT)) and bool(mallopt(_MMAP_THRESHOLD, _FROM_HEAP))


def give_back_freed_memory() -> None:
    """Gives what is free now back to the system, after work that took much and does not come again soon."""
    if sys.platform.startswith("linux") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
