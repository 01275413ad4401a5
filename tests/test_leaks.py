"""The guard against tests that leak into the next one, and the device they are kept on."""

import os
import subprocess
import sys

import mlx.core as mx
import pytest

from tests.conftest import STARTUP
from tests.leaks import State, compiles


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: os.chdir(folder), "folder"),
        (lambda _: os.environ.update(MLX_LTXW_OPENBLAS="0"), "environment"),
        (lambda _: os.environ.pop("MLX_KEPT"), "environment"),
        (lambda _: (mx.disable_compile if compiles() else mx.enable_compile)(), "compiles"),
    ],
)
def test_a_change_is_told_and_undone(change, told, tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_KEPT", "1")
    before = State.now()
    assert before.changes(State.now()) == []
    change(tmp_path)
    (line,) = before.changes(State.now())
    assert line.startswith(told)
    before.restore()
    assert before == State.now()


def test_compiles_tells_both_ways():
    was = compiles()
    try:
        mx.enable_compile()
        assert compiles()
        mx.disable_compile()
        assert not compiles()
    finally:
        (mx.enable_compile if was else mx.disable_compile)()


@pytest.mark.skipif(os.environ.get("MLX_LTXW_TEST_DEVICE") == "gpu", reason="MLX's own choice is asked for")
def test_tests_run_on_the_cpu():
    assert mx.default_device() == mx.Device(mx.cpu)
    code = "import mlx.core as mx; print(mx.default_device() == mx.Device(mx.cpu))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_started_processes_are_pinned(tmp_path):
    """With a stand-in for MLX on a machine with a GPU; and nothing is loaded early."""
    (tmp_path / "mlx").mkdir()
    stand_in = "cpu, device = 'cpu', 'gpu'\ndef set_default_device(chosen):\n    global device\n    device = chosen\n"
    (tmp_path / "mlx/core.py").write_text(stand_in)
    (tmp_path / "mlx/__init__.py").touch()
    code = "import sys; early = 'mlx' in sys.modules; import mlx.core; print(early, mlx.core.device)"
    for path, told in ((f"{STARTUP}{os.pathsep}{tmp_path}", "False cpu\n"), (str(tmp_path), "False gpu\n")):
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout == told
