"""float32 is multiplied as float32: MLX is told so before it first multiplies, whichever way one comes in."""

import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

import mlx_ltxw as ltx
from mlx_ltxw import machine
from mlx_ltxw.tf32 import LATE, VARIABLE, tf32_is_used
from tests.convert.made import ROOT

COMMAND = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "mlx.core":
            print("seen", os.environ.get("MLX_ENABLE_TF32"))
sys.meta_path.insert(0, Watch())
from mlx_ltxw.cli import main
assert "mlx.core" not in sys.modules
sys.argv = ["mlx-ltxw", "generate", "a room", "--width", "1", "-o", "never.mp4"]
try:
    main()
except SystemExit as end:
    print("ended", end.code)
"""

PYTHON = """
import os
import mlx.core as mx
seen = []
def watched(function):
    def call(*arguments, **options):
        seen.append(os.environ.get("MLX_ENABLE_TF32"))
        return function(*arguments, **options)
    return call
mx.eval, mx.async_eval = watched(mx.eval), watched(mx.async_eval)
import mlx_ltxw as ltx
assert "MLX_ENABLE_TF32" not in os.environ, "an import sets nothing"
ltx.load().generate("a room", audio_only=True, frames=9, steps=1)
print(seen[0], set(seen), len(seen) > 3)
"""


def python(code, **environment):
    plain = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=plain | environment, check=True
    ).stdout.split("\n")


def test_the_command_says_so_before_mlx_is_there():
    assert python(COMMAND)[:2] == ["seen 0", "ended 2"]


def test_what_the_user_says_stays():
    assert python(COMMAND, **{VARIABLE: "1"})[0] == "seen 1"


def test_from_python_it_is_said_before_anything_is_computed():
    assert python(PYTHON)[0] == "0 {'0'} True"


@pytest.mark.parametrize(
    ("call", "first"),
    [
        (lambda ltx: ltx.train("clips", "run"), "mlx_ltxw.train.face.begin"),
        (lambda ltx: ltx.convert("a.safetensors", "model"), "mlx_ltxw.convert.face.names_upsampler"),
        (lambda ltx: ltx.export("whisper", "comfyui"), "mlx_ltxw.takes.export.locate"),
        (lambda ltx: ltx.inspect("whisper"), "mlx_ltxw.api.describe"),
        (lambda ltx: ltx.load(), "mlx_ltxw.api.open_model"),
    ],
    ids=["train", "convert", "export", "inspect", "load"],
)
def test_each_door_of_python_says_so_first(monkeypatch, call, first):
    """Before the first thing that it calls: clips are encoded, adapters multiplied out, ahead of any clip."""
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.delenv(VARIABLE)

    def reached(*arguments, **options):
        raise LookupError(os.environ.get(VARIABLE))

    monkeypatch.setattr(first, reached)
    with pytest.raises(LookupError, match=r"^0$"):
        call(ltx)


class Rounding:
    """A stand-in for a GPU that keeps 10 bits of each factor, as TF32 does."""

    float32 = mx.float32
    eye = staticmethod(mx.eye)

    class Factor:
        def __init__(self, value):
            self.value = np.float32(value)

        def __matmul__(self, other):
            bits = (self.value.view(np.uint32) + np.uint32(0x0FFF)) & np.uint32(0xFFFFE000)
            return mx.eye(256) * 0 + mx.array(bits.view(np.float32))

    def full(self, shape, value, dtype):
        return self.Factor(value)


def test_a_product_tells():
    """1 + 2^-12 is 1 in TF32; on this device it is not."""
    assert tf32_is_used(Rounding())
    if machine.on_cpu():
        assert not tf32_is_used(mx)


@pytest.mark.parametrize(("cpu", "told", "used", "notes"), [
    (False, "0", True, [LATE]), (False, "0", False, []), (False, "1", True, []), (True, "0", True, []),
])  # fmt: skip
def test_who_comes_too_late_is_told(monkeypatch, cpu, told, used, notes):
    monkeypatch.setattr(machine, "on_cpu", lambda: cpu)
    monkeypatch.setattr(machine, "tf32_is_used", lambda mx: used)
    monkeypatch.setenv(VARIABLE, told)
    assert machine.late_tf32() == notes
