"""What importing leaves alone, what a run settles, and what is asked of the device."""

import os
import subprocess
import sys
import threading
from contextlib import suppress

import mlx.core as mx
import pytest

from mlx_ltxw import heap, machine
from mlx_ltxw.blas import VARIABLE
from mlx_ltxw.cuda_graphs import VARIABLE as CUDA_GRAPHS
from mlx_ltxw.machine import Machine, Parts, on_cpu, this_machine
from mlx_ltxw.tf32 import VARIABLE as TF32

GB = 10**9
ROOMS = (
    "models",
    "models.text",
    "weights",
    "adapter",
    "convert",
    "pipeline",
    "train",
    "train.data",
    "doctor",
    "tree",
    "world",
)


def python(code, **environment):
    plain = {name: value for name, value in os.environ.items() if name not in (*heap.VARIABLES, CUDA_GRAPHS, TF32)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=plain | environment, check=True).stdout.strip()


def test_importing_changes_nothing():
    """No variable, no malloc setting (each would need `ctypes`), no MLX."""
    code = (
        "import os, sys\n"
        "before = dict(os.environ)\n"
        "import mlx_ltxw, mlx_ltxw.errors, mlx_ltxw.files, mlx_ltxw.hub\n"
        "print(dict(os.environ) == before, 'mlx.core' in sys.modules, 'ctypes' in sys.modules, 'numpy' in sys.modules)"
    )
    assert python(code) == "True False False False"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the BLAS is loaded on Linux alone")
@pytest.mark.parametrize("room", ROOMS)
def test_every_room_that_uses_mlx_loads_the_blas_before_it(room):
    """The library named by the variable is loaded while MLX is not; a room that imports MLX first finds it too late."""
    code = (
        "import ctypes, sys\n"
        "plain, seen = ctypes.CDLL, []\n"
        "def watched(name, *rest, **more):\n"
        "    seen.append((name, 'mlx.core' in sys.modules))\n"
        "    return plain(None if name == 'a-blas' else name, *rest, **more)\n"
        "ctypes.CDLL = watched\n"
        f"import mlx_ltxw.{room}\n"
        "import mlx_ltxw.tree\n"
        "print([loaded for name, loaded in seen if name == 'a-blas'])"
    )
    assert python(code, **{VARIABLE: "a-blas"}) == "[False]"


def test_the_device():
    machine = this_machine()
    assert on_cpu() == (machine.backend == "cpu")
    assert 0 < machine.budget <= machine.total
    assert machine.in_pieces == (machine.backend != "cpu")
    if machine.backend == "cpu":
        assert machine.total == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(("total", "limit"), [(8 * GB, 500_000_000), (2 * GB, 256 << 20), (512 * GB, 4 << 30)])
def test_cache_limit(total, limit):
    """A sixteenth of the memory, between 256 MiB and 4 GiB; none on a CPU, whose C library keeps what is freed."""
    assert {Machine(backend, total, total).cache_limit for backend in ("metal", "cuda")} == {limit}
    assert Machine("cpu", total, total).cache_limit == 0


@pytest.mark.parametrize(("backend", "pieces"), [("metal", True), ("cuda", True), ("cpu", False)])
def test_a_gpu_gets_its_work_in_pieces(backend, pieces):
    assert Machine(backend, GB, GB).in_pieces is pieces


def test_a_part_may_hold_what_is_there_and_what_it_needs():
    held, before = mx.zeros(1_000_000), mx.set_memory_limit(GB)
    try:
        mx.eval(held)
        active = mx.get_active_memory()
        parts = Parts(Machine("cpu", GB, GB))
        parts.begin("sound", 3_000_000, 2_000_000)
        assert mx.set_memory_limit(GB) == active + 5_000_000
        parts.begin("picture", 1_000_000, 1_000_000)
        parts.begin("sound", 3_000_000, 2_000_000)  # again: its weights may have gone or stayed
        assert mx.set_memory_limit(GB) == active + 5_000_000
        more = mx.zeros(2_000_000)
        mx.eval(more)
        parts.begin("sound", 3_000_000, 2_000_000)  # something else stays in memory by now
        assert mx.set_memory_limit(GB) == active + more.nbytes + 2_000_000
        parts.begin("text encoder", 2 * GB, 0)
        assert mx.set_memory_limit(GB) == GB
        Parts(Machine("cuda", GB, GB)).begin("sound", 1, 1)
        assert mx.set_memory_limit(GB) == GB
    finally:
        mx.set_memory_limit(before)


def test_after_a_failed_evaluation_the_cpu_waits_for_nothing(monkeypatch):
    """Of what failed MLX may count operations as at work that never end; it would wait for them above a limit."""
    monkeypatch.setattr(machine, "_GIVEN_UP", threading.Event())
    cpu, before = Machine("cpu", GB, GB), mx.set_memory_limit(3 * GB)
    try:
        with suppress(RuntimeError), machine.limits(cpu):
            assert mx.set_memory_limit(GB) == GB
            raise RuntimeError("[read] Unable to read from file.")
        assert mx.set_memory_limit(3 * GB) == 3 * GB
        with machine.limits(cpu) as parts:
            parts.begin("sound", 1, 1)
            assert mx.set_memory_limit(GB) > 1000 * GB
    finally:
        mx.set_memory_limit(before)


def test_the_cpu_waits_where_a_part_holds_enough():
    """Of a hundred arrays of 4 MB, each made of the one before, MLX describes many ahead; with a limit few."""

    def peak(limit):
        mx.synchronize()
        mx.reset_peak_memory()
        before = mx.set_memory_limit(limit)
        try:
            x = mx.zeros((1000, 1000))
            for _ in range(30):
                x = mx.sin(x @ x)
            mx.eval(x)
            return mx.get_peak_memory()
        finally:
            mx.set_memory_limit(before)

    assert peak(mx.get_active_memory() + 8_000_000) < 0.7 * peak(GB)
