"""Converting needs little memory beyond one tensor, whatever the file's size."""

import math
import subprocess
import sys

import pytest

from tests.convert.made import ITEM_BYTES, ROOT, write_header

WRITE = """
import resource, sys
from pathlib import Path
from mlx_ltxw.convert.layout import axes
from mlx_ltxw.convert.plan import Shard, Entry
from mlx_ltxw.convert.quantize import Quantization
from mlx_ltxw.convert.writer import write_shard
from mlx_ltxw.weights.header import read_header

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

source, out, kind = sys.argv[1:]
tensors = read_header(Path(source)).tensors
how = Quantization.parse("4") if kind == "quantised" else None
entries = [Entry(t.name, t, axes("video_vae", t.name, len(t.shape)), None, how) for t in tensors.values()]
import mlx.core as mx
mx.eval(mx.quantize(mx.zeros((64, 64)))[0])
before = peak()
write_shard(Path(out), Shard("x", "x.safetensors", entries), lambda _: None)
print((peak() - before) * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.parametrize(
    ("kind", "shape", "dtype", "allowed"),
    [
        ("copied", (1000, 100_000), "BF16", 0.3),  # in pieces of 16 MB
        ("fp8", (1000, 200_000), "F8_E4M3", 0.3),  # decoded in pieces
        ("moved", (512, 3000, 3, 3, 3), "BF16", 2.5),  # the source's and the moved layout
        ("quantised", (4096, 12288), "BF16", 3.0),  # as NumPy's, MLX's, and the packed arrays
    ],
)
def test_peak_memory(tmp_path, kind, shape, dtype, allowed):
    """Growth of the process's own peak, in sizes of the tensor, which lies in a hole of the file."""
    tensors = {f"part{i}.weight": (dtype, shape) for i in range(2)}
    source = write_header(tmp_path / "source.safetensors", tensors, {})
    nbytes = math.prod(shape) * ITEM_BYTES[dtype]
    with source.open("ab") as file:
        file.truncate(source.stat().st_size + 2 * nbytes)
    child = subprocess.run(
        [sys.executable, "-c", WRITE, source, tmp_path / "out", kind], capture_output=True, text=True, cwd=ROOT
    )
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) < allowed * nbytes
