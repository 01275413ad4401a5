"""The faster BLAS on Linux: loaded before MLX, on request not at all, and never too late."""

import ctypes
import os
import subprocess
import sys

import pytest

from mlx_ltxw.blas import packed

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


PRODUCT = (
    "import mlx_ltxw.blas as blas, mlx.core as mx; from mlx_ltxw.machine import beside_mlx\n"
    "mx.set_default_device(mx.cpu); mx.set_cache_limit(0)\n"
    "x, y = mx.zeros((60000, 216)), mx.zeros((216, 48)); mx.eval(x, y, x[:8] @ y)\n"
    "before = beside_mlx(); z = x @ y; mx.eval(z)\n"
    "print(blas.threads(), blas.packed(blas.threads(), 60000, 216), beside_mlx() - before)\n"
)


@needs_library
def test_what_threads_keep_of_a_product_is_counted():
    """Two threads copy all rows, and do not give the memory back; one copies a few at a time."""
    threads, said, kept = map(int, run(PRODUCT, OPENBLAS_NUM_THREADS="2"))
    if threads == 2:  # OpenBLAS makes no more threads than there are cores
        assert said == 60000 * 216 * 4
        assert 0.9 * said < kept < 1.15 * said
    threads, said, kept = map(int, run(PRODUCT, OPENBLAS_NUM_THREADS="1"))
    assert (threads, said) == (1, 0)
    assert kept < 6e6


@pytest.mark.parametrize(
    ("rows", "inner", "heights", "bytes_"),
    [
        (1000, 100, 1, 400_000),
        (1000, 576, 1, 1000 * 288 * 4),  # in two halves
        (1000, 4096, 1, 1000 * 448 * 4),
        (1000, 100, 2, 1000 * 274 * 4),  # halfway to the whole depth
        (10**7, 4096, 1, 4 << 27),  # the buffers of four threads
    ],
)
def test_packed_rows(rows, inner, heights, bytes_):
    assert packed(4, rows, inner, heights) == bytes_


def test_too_late_after_mlx():
    assert run("import mlx.core, mlx_ltxw.blas; print(mlx_ltxw.blas.LOADED)") == ["False"]


def test_missing_library_is_no_error():
    assert run("import mlx_ltxw.blas; print(mlx_ltxw.blas.LOADED)", MLX_LTXW_OPENBLAS="/nowhere/libnone.so") == [
        "False"
    ]


NOTE = "import mlx_ltxw.machine as m; print(len(m.slow_blas()), *m.slow_blas())"
LATE = "import mlx.core; "
NOT_THERE = (
    "import ctypes\n"
    "plain = ctypes.CDLL\n"
    "def absent(name, *rest, **more):\n"
    "    if name == 'libopenblas.so.0': raise OSError\n"
    "    return plain(name, *rest, **more)\n"
    "ctypes.CDLL = absent\n"
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the BLAS is loaded on Linux alone")
def test_a_missing_library_is_told():
    environment = {"MLX_LTXW_OPENBLAS": ""}
    code = f"import os; os.environ.pop('MLX_LTXW_OPENBLAS', None)\n{NOT_THERE}{NOTE}"
    told = run(code, **environment)
    assert told[0] == "1"
    assert "libopenblas0-pthread`;" in told
    assert run(NOT_THERE + NOTE, MLX_LTXW_OPENBLAS="0") == ["0"]  # as the user wants it
    on_gpu = "import mlx_ltxw.machine as m; m.on_cpu = lambda: False\nprint(m.slow_blas())"
    assert run(code.replace(NOTE, on_gpu), **environment) == ["[]"]


@needs_library
@pytest.mark.parametrize("first", ["", LATE])
def test_a_library_that_is_there_is_not(first):
    code = f"import os; os.environ.pop('MLX_LTXW_OPENBLAS', None)\n{first}{NOTE}"
    assert run(code) == ["0"]


def test_never_on_macos(monkeypatch):
    from mlx_ltxw import blas

    monkeypatch.setattr(blas.sys, "platform", "darwin")
    monkeypatch.setattr(blas.ctypes, "CDLL", lambda *_, **__: pytest.fail("loaded a library"))
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    assert blas.prefer_openblas() is False


def test_the_number_of_threads_is_part_of_its_identity():
    """As OpenBLAS itself tells it, in processes that are told to use one thread and two."""
    if not has_library():
        pytest.skip("there is no OpenBLAS")
    told = []
    for threads in ("1", "2"):
        call = [sys.executable, "-c", "from mlx_ltxw import blas; print(blas.identity())"]
        done = subprocess.run(call, env=os.environ | {"OPENBLAS_NUM_THREADS": threads}, capture_output=True, text=True)
        told.append(done.stdout.strip())
    assert told[0].startswith("OpenBLAS")
    assert told[0].replace("in 1 threads", "in 2 threads") == told[1]
