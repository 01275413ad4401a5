"""From the start of `generate` to its first step, beside reading the weights' bytes once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_ltxw.weights.loading import read_arrays
from mlx_ltxw.weights.model_dir import ModelDir
from scripts.bench.figures import Figure
from scripts.bench.networks import MADE
from scripts.bench.setting import Setting
from scripts.random_dir import make_dir

PROMPT = 'a woman in dim light, (woman): "close your eyes"'
CHUNK = 16 << 20
READERS = 8


_CHANGES: dict[str, dict[str, Any]] = {"22b": {"transformer.num_layers": 16, "gemma.num_hidden_layers": 2}}
"""Of the whole model a third, whose bytes any disk has room for: reading takes as long for each."""


def read_once(files: list[Path]) -> float:
    """Seconds to read files into memory, in pieces by some threads, thrown away."""

    def read(piece: tuple[Path, int]) -> int:
        path, start = piece
        with path.open("rb", buffering=0) as file:
            return os.preadv(file.fileno(), [bytearray(CHUNK)], start)

    pieces = [(path, start) for path in files for start in range(0, path.stat().st_size, CHUNK)]
    clock = time.perf_counter()
    with ThreadPoolExecutor(READERS) as pool:
        sum(pool.map(read, pieces))
    return time.perf_counter() - clock


def first_step(model: Path, folder: Path) -> dict[str, float]:
    """Seconds from the process's start to each kind of event, the prompt's contexts cached already."""
    command = [
        sys.executable, "-m", "mlx_ltxw", "generate", PROMPT, "-m", str(model), "-o", str(folder / "clip.mp4"),
        "--json", "--steps", "2", "--width", "192", "--height", "192", "--frames", "25", "--no-resume", "--overwrite",
    ]  # fmt: skip
    clock, seen = time.perf_counter(), dict[str, float]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            seen.setdefault(json.loads(line).get("event", "?"), time.perf_counter() - clock)
            if "step" in seen:
                break
        process.terminate()
    return seen


def opened(path: Path) -> Any:
    """The transformer's parameters, as a run has them."""
    return ModelDir.open(path).load_transformer().parameters()


def loaded(call: Callable[[], Any]) -> float:
    """Seconds until some arrays are in memory; they are let go then."""
    clock = time.perf_counter()
    mx.eval(call())
    seconds = time.perf_counter() - clock
    mx.clear_cache()
    return seconds


def measure(setting: Setting) -> Iterator[Figure]:
    """A model directory of random weights, in the page cache; two runs that do not count, for the prompt's and the
    kernels' caches."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_dir(folder / "model", MADE[setting.size], **_CHANGES.get(setting.size, {}))
        files = sorted((folder / "model").glob("transformer*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        floor = min(read_once(files) for _ in range(3))
        lazily = loaded(lambda: read_arrays(files))
        yield Figure("load, now", f"{size / 1e9:.2f} GB", [loaded(lambda: opened(folder / "model"))], floor,
                     {"mx.load": round(lazily, 3)})  # fmt: skip
        runs = [first_step(folder / "model", folder) for _ in range(setting.runs + 1)][1:]
        events = {name: round(min(run[name] for run in runs), 3) for name in runs[0]}
        yield Figure("to the first step", f"{size / 1e9:.2f} GB", [run["step"] for run in runs], floor, more=events)
