"""Made checkpoints and small tools that the tests of `convert` and `weights` share."""

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from mlx_ltxw.convert import run
from mlx_ltxw.convert.quantize import Quantization

ROOT = Path(__file__).parents[2]
ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "U8": 1}


@functools.cache
def made(**options):
    """A tiny checkpoint and its Gemma (`scripts/make_checkpoint.py`), made once in a test run; read only."""
    from scripts.make_checkpoint import make

    folder = Path(tempfile.mkdtemp(prefix="made-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make(folder, "tiny", **options)


@functools.cache
def converted(quantize=None, group_size=None, **options):
    """The `ModelDir` of `made(**options)`, converted once in a test run; read only."""
    source = made(**options)
    out = source.gemma.parent / f"model-{quantize}-{group_size}"
    how = Quantization.parse(quantize, group_size) if quantize else None
    return run.convert(run.prepare(str(source.checkpoint), str(source.gemma), quantization=how), out)


def prepare(source, gemma=None, **options):
    """`run.prepare` of paths, with files cut small enough that there are several."""
    options.setdefault("shard_bytes", 200_000)
    return run.prepare(str(source), str(gemma or made().gemma), **options)


def read_file(path):
    """Header (with `__metadata__`) and data bytes of a safetensors file, without any library."""
    raw = Path(path).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_file(path, header, data):
    """Writes what `read_file` reads."""
    raw = json.dumps(header).encode()
    Path(path).write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return Path(path)


def write_header(path, tensors, metadata):
    """A safetensors file whose data is missing: name -> (dtype, shape)."""
    header, offset = {"__metadata__": metadata}, 0
    for name, (dtype, shape) in tensors.items():
        stop = offset + int(np.prod(shape, dtype=np.int64)) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    return write_file(path, header, b"")


def edited(source, target, change):
    """Copies a safetensors file; `change(tensors, metadata)` edits name -> (dtype, shape, bytes) in place."""
    header, data = read_file(source)
    metadata = header.pop("__metadata__")
    tensors = {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])]) for name, entry in header.items()
    }
    change(tensors, metadata)
    header, offset = {"__metadata__": metadata}, 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(raw)]}
        offset += len(raw)
    return write_file(target, header, b"".join(raw for _, _, raw in tensors.values()))


def contents(folder):
    """Every file's bytes, by its path in `folder`."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def command(*arguments, **environment):
    """Runs `mlx-ltxw` in a process of its own."""
    code = "import sys; from mlx_ltxw.cli import main; sys.argv[0] = 'mlx-ltxw'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=120,
    )
