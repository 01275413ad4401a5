"""From the start of `generate` to its first step, beside reading the weights' bytes once.

    python -m scripts.bench --what start --size 22b --folder DIR --bits 4

Without `--folder` the model of random weights is made in a temporary folder, which `TMPDIR` moves; with it, it is made
there unless it is there, and stays. `22b` has all 48 blocks: 38 GB, or 11 in 4 bits. Gemma has two of its layers, for
prompts are encoded before anything is timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import mlx.core as mx

from mlx_ltxw.files import check_free
from mlx_ltxw.machine import on_cpu
from mlx_ltxw.printing import readable
from mlx_ltxw.weights.loading import read_arrays
from mlx_ltxw.weights.model_dir import ModelDir
from scripts.bench.figures import Figure
from scripts.bench.networks import MADE
from scripts.bench.setting import Setting
from scripts.random_dir import make_dir

PROMPT = 'a woman in dim light, (woman): "close your eyes"'
CLIP = (192, 192, 25)
CHUNK = 16 << 20
READERS = 16
GB = 10**9
_NEEDED = {"22b": 50 * GB}
"""Bytes on disk, of what is not small."""


def read_once(files: Sequence[Path], readers: int = READERS) -> float:
    """Seconds to read files into memory that is there already, in pieces by some threads."""
    own = threading.local()

    def read(piece: tuple[Path, int]) -> int:
        path, start = piece
        if not hasattr(own, "memory"):
            own.memory = bytearray(CHUNK)
        with path.open("rb", buffering=0) as file:
            return os.preadv(file.fileno(), [own.memory], start)

    pieces = [(path, start) for path in files for start in range(0, path.stat().st_size, CHUNK)]
    with ThreadPoolExecutor(readers) as pool:
        clock = time.perf_counter()
        done = sum(pool.map(read, pieces))
    seconds = time.perf_counter() - clock
    if done != sum(path.stat().st_size for path in files):
        raise RuntimeError("the files changed while they were read")
    return seconds


def first_step(model: Path, folder: Path) -> dict[str, float]:
    """Seconds from the process's start to the first of each kind of event, up to the first step.

    Args:
        model: The model directory.
        folder: For the clip, which is never written, and for what runs keep (prompts' contexts, kernels).

    Raises:
        RuntimeError: the command ended before its first step, with what it said.
    """
    width, height, frames = map(str, CLIP)
    command = [
        sys.executable, "-m", "mlx_ltxw", "generate", PROMPT, "-m", str(model), "-o", str(folder / "clip.mp4"),
        "--json", "--steps", "2", "--width", width, "--height", height, "--frames", frames, "--no-resume",
    ]  # fmt: skip
    environment = os.environ | {"MLX_LTXW_CACHE": str(folder / "cache")}
    said = folder / "said.txt"
    clock, seen = time.perf_counter(), dict[str, float]()
    with (
        said.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            seen.setdefault(json.loads(line).get("event", "?"), time.perf_counter() - clock)
            if "step" in seen:
                break
        process.terminate()
    if "step" not in seen:
        raise RuntimeError(said.read_text()[-2000:])
    return seen


def loaded(call: Callable[[], Any]) -> float:
    """Seconds until some arrays are in memory; they are let go then."""
    clock = time.perf_counter()
    mx.eval(call())
    seconds = time.perf_counter() - clock
    mx.clear_cache()
    return seconds


def model_of(setting: Setting, folder: Path) -> tuple[Path, float | None]:
    """A model directory of random weights in a folder, and the seconds that it took to make; None for one that was
    there.

    Raises:
        UserError: there is no room for it.
    """
    layers = f"-{setting.layers}" if setting.layers else ""
    out = folder / f"{setting.size}{layers}-{f'q{setting.bits}' if setting.bits else 'bf16'}"
    if (out / "manifest.json").exists():
        return out, None
    folder.mkdir(parents=True, exist_ok=True)
    check_free(folder, _NEEDED.get(setting.size, GB), "the model needs", "or name another folder.")
    changes: dict[str, Any] = {"gemma.num_hidden_layers": 2} if setting.size == "22b" else {}
    if setting.layers:
        changes["transformer.num_layers"] = setting.layers
    clock = time.perf_counter()
    make_dir(out, MADE[setting.size], setting.bits, **changes)
    return out, time.perf_counter() - clock


def measure(setting: Setting) -> Iterator[Figure]:
    """A model of random weights in the page cache: making it, reading it into memory, and a whole command up to its
    first step; two runs do not count, for the prompt's and the kernels' caches."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model, seconds = model_of(setting, setting.folder or place)
        files = sorted(model.glob("transformer*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        every = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
        name, all_of_it = readable(size), readable(every)
        click.echo(f"{model}: {all_of_it}, of which the transformer {name}", err=True)
        if seconds is not None:
            yield Figure("make the model", all_of_it, [seconds])
        read_once(files)
        floors, eight = [read_once(files) for _ in range(3)], min(read_once(files, 8) for _ in range(3))
        floor = min(floors)
        more: dict[str, Any] = {"GB/s": round(size / floor / GB, 2), "with 8 readers, s": round(eight, 4)}
        yield Figure("read once", name, floors, more=more)
        if not on_cpu():  # there a run reads each array when it first needs it
            more = {"mx.load": round(loaded(lambda: read_arrays(files)), 3)}
            took = [loaded(lambda: ModelDir.open(model).load_transformer().parameters()) for _ in range(3)]
            yield Figure("load, all of it", name, took, floor, more=more)
        runs = [first_step(model, place) for _ in range(setting.runs + 2)][2:]
        parts = {f"{event}, s": round(min(run[event] for run in runs), 3) for event in runs[0]}
        yield Figure("start to the first step", name, [run["step"] for run in runs], floor, more=parts)
