"""Freed memory is used again on Linux, unless a variable of the C library decides."""

import os
import platform
import subprocess
import sys

import pytest

from mlx_ltxw import heap

FAULTS = (
    "import resource, mlx_ltxw.machine, mlx.core as mx\n"
    "mlx_ltxw.machine.settle()\n"
    "mx.set_default_device(mx.cpu)\n"
    "x = mx.random.normal((10 << 20,))  # 40 MiB: 10240 pages\n"
    "def faults(count):\n"
    "    for _ in range(count):\n"
    "        mx.eval(x + 1)\n"
    "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
    "before = faults(3)\n"
    "print(faults(30) - before)\n"
)


def page_faults(**environment):
    plain = {name: value for name, value in os.environ.items() if name not in heap.VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, env=plain | environment, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_large_arrays_are_made_in_memory_that_was_freed():
    assert page_faults() < 5 * 10240
    assert page_faults(GLIBC_TUNABLES="glibc.malloc.check=0") > 20 * 10240


def test_nowhere_else(monkeypatch):
    for name in heap.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    assert not heap.keep_freed_memory()
    monkeypatch.setattr(heap.sys, "platform", "linux")
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())
    assert not heap.keep_freed_memory()
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    assert not heap.keep_freed_memory()
