"""Loads a fast BLAS before MLX does, where MLX would bring a slow one.

The `mlx-cpu` wheel for Linux carries the reference BLAS of netlib (about 7 GFLOP/s in fp32 on two cores). A system
OpenBLAS that is already in the process, with its symbols visible to all, is used instead (about 117 GFLOP/s on the
same cores). This works only before the first `import mlx.core`, so every room that uses MLX imports this module
first of all; importing it loads the library.
"""

from __future__ import annotations

import ctypes
import os
import sys

_BUFFER = 128 << 20
"""Bytes of the buffer that each of OpenBLAS's threads has, of which it takes what it once needs, for good."""
_DEPTH = 448
"""How much of a product's inner width is packed at a time, at most (`SGEMM_DEFAULT_Q` of `param.h`; 320 to 448)."""

VARIABLE = "MLX_LTXW_OPENBLAS"
"""Set to `0` to keep MLX's own BLAS; to a path to load that library instead of the system's."""


def prefer_openblas() -> bool:
    """Loads the system's OpenBLAS with global symbol visibility, on Linux only.

    Returns:
        True when a library was loaded. False when the variable says no, on other systems, when there is no
        library, or when MLX is already imported (it has bound its own by then).
    """
    choice = os.environ.get(VARIABLE, "libopenblas.so.0")
    if choice == "0" or not sys.platform.startswith("linux") or "mlx.core" in sys.modules:
        return False
    try:
        ctypes.CDLL(choice, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def is_missing() -> bool:
    """Whether there is no system OpenBLAS where one would be used: on Linux, unless the variable names another."""
    if LOADED or VARIABLE in os.environ or not sys.platform.startswith("linux"):
        return False
    try:
        ctypes.CDLL("libopenblas.so.0")
    except OSError:
        return True
    return False  # it is there, but MLX came first


def identity() -> str:
    """What a product's last bits hang on: which BLAS multiplies, and in how many threads it shares the work."""
    if not LOADED:
        return "MLX's own"
    config = getattr(_library(), "openblas_get_config", None)
    if config is None or not hasattr(_library(), "openblas_get_num_threads"):  # another one that the variable names
        return f"{os.environ.get(VARIABLE)} {os.environ.get('OPENBLAS_NUM_THREADS')}"
    config.restype = ctypes.c_char_p
    return f"{config().decode()} in {threads()} threads"


def threads() -> int:
    """In how many threads products are made as far as is known; 1 where no OpenBLAS was loaded."""
    count = getattr(_library(), "openblas_get_num_threads", None) if LOADED else None
    return 1 if count is None else int(count())


def packed(count: int, rows: int, inner: int, heights: int = 1) -> int:
    """Bytes that OpenBLAS's threads keep of the product (rows, inner) @ (inner, n), fp32, to the end of the process.

    They share out the rows, and each packs its own, some of the inner width at a time, into a buffer (`inner_thread` of
    `driver/level3/level3_thread.c`); a single thread packs a few rows at a time.

    Args:
        count: Of threads.
        rows, inner: Of the product; of several the largest.
        heights: Numbers of rows that such products have. Where in the buffer a thread's second half begins follows
            from the rows, so that products of several heights touch more of it than one.
    """
    if count < 2:
        return 0
    depth = inner if inner <= _DEPTH else min(_DEPTH, -(-inner // 2))
    if heights > 1:
        depth = (depth + _DEPTH) // 2
    return min(count * _BUFFER, rows * depth * 4)


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(os.environ.get(VARIABLE, "libopenblas.so.0"))


LOADED = prefer_openblas()
"""Whether a system OpenBLAS was loaded ahead of MLX's own BLAS."""
