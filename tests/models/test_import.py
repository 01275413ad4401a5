"""Importing the networks changes nothing in the process."""

import subprocess
import sys
from pathlib import Path

CODE = """
import mlx.core as mx
import mlx_ltxw.models.audio_vae, mlx_ltxw.models.transformer, mlx_ltxw.models.video_vae
from mlx_ltxw.models import ops
mx.set_default_device(mx.cpu)
calls = []

@mx.compile
def traced(x):
    calls.append(1)
    return mx.transpose(x)

traced(mx.zeros((2, 3)))
traced(mx.zeros((2, 3)))
assert len(calls) == 1, "compiled functions are traced once"
ops.settle_compile()
traced(mx.zeros((2, 3)))
traced(mx.zeros((2, 3)))
assert len(calls) == 3, "and called each time once that is settled"
"""


def test_compile_is_left_on_by_an_import_and_settled_by_a_run():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
