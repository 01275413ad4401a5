"""The faster BLAS on Linux: loaded before MLX, on request not at all, and never too late."""

import ctypes
import os
import subprocess
import sys

import pytest

LIBRARY = "libopenblas.so.0"


def has_library():
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


needs_library = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not has_library(), reason="no system OpenBLAS"
)


def run(code, **environment):
    """Prints of a fresh process, in which this project's import comes first unless the code says otherwise."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, check=True
    )
    return done.stdout.split()


MULTIPLY = (
    "import time, mlx.core as mx; a = mx.random.normal((768, 768)); mx.eval(a @ a)\n"
    "best = 1e9\n"
    "for _ in range(3):\n"
    "    start = time.perf_counter(); mx.eval(a @ a); best = min(best, time.perf_counter() - start)\n"
    "print(2 * 768**3 / best / 1e9)\n"
)


@needs_library
def test_matrix_products_use_it():
    """At least twice as fast as MLX's own (16 times on two idle cores)."""
    loaded, fast = run("import mlx_ltxw.blas; print(mlx_ltxw.blas.LOADED)\n" + MULTIPLY)
    refused, slow = run("import mlx_ltxw.blas; print(mlx_ltxw.blas.LOADED)\n" + MULTIPLY, MLX_LTXW_OPENBLAS="0")
    assert (loaded, refused) == ("True", "False")
    assert float(fast) > 2 * float(slow)


def test_too_late_after_mlx():
    assert run("import mlx.core, mlx_ltxw.blas; print(mlx_ltxw.blas.LOADED)") == ["False"]


def test_missing_library_is_no_error():
    assert run("import mlx_ltxw.blas; print(mlx_ltxw.blas.LOADED)", MLX_LTXW_OPENBLAS="/nowhere/libnone.so") == [
        "False"
    ]


def test_never_on_macos(monkeypatch):
    from mlx_ltxw import blas

    monkeypatch.setattr(blas.sys, "platform", "darwin")
    monkeypatch.setattr(blas.ctypes, "CDLL", lambda *_, **__: pytest.fail("loaded a library"))
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    assert blas.prefer_openblas() is False
