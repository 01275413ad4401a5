"""A full-size clip under the memory of each Mac: does it complete, with what peaks, in what time, with the same bits?

    python -m scripts.tiers --folder /dev/shm/tiers --tier 10.5:bf16 --tier 22:picked --tier 48:bf16

makes model directories of random weights (`scripts.random_dir`; bf16 70 GB) and runs each tier in a process of its own:
text encoder, denoising with all guidance passes and the video lock, sound and picture, written nowhere. On CUDA a
second process holds the rest of the card (`scripts.ballast`). `picked` is the best precision of which the plan keeps
every block in memory, or 4 bits. Prints one JSON object a line: seconds and peak by stage beside what the plan said,
and hashes of what was made. To try it out on a CPU: --size tiny --width 64 --height 64 --frames 9 --tier 1.2:bf16
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx
import numpy as np

from mlx_ltxw.adapter.names import WHISPER_MODULES
from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import on_cuda, resident_memory
from mlx_ltxw.pipeline.events import Conditioned, Decoded, Step
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import RESIDENT
from scripts.random_dir import make_dir
from scripts.random_model import report
from scripts.stage_peaks import predicted, watched

GB = 10**9
PRECISIONS = ("bf16", "q8", "q4")
"""Best first."""
CONTEXT = int(1.5 * GB)
"""What a CUDA context and its libraries take of a card beside MLX's memory."""
PROMPT = 'a woman in dim light, (woman, whispering): "close your eyes, and listen to the rain"'
RANK = 32


def directory(folder: Path, size: str, precision: str) -> Path:
    """A model of a precision, made unless it is there."""
    out = folder / precision
    if not (out / "manifest.json").exists():
        clock = time.perf_counter()
        beside = None if precision == "bf16" else directory(folder, size, "bf16")
        make_dir(out, size, None if precision == "bf16" else int(precision[1:]), beside)
        made = sum(file.stat().st_size for file in out.glob("transformer*"))
        report(made=precision, transformer_gb=round(made / GB, 2), seconds=round(time.perf_counter() - clock, 1))
    return out


def adapter_file(model: ModelDir, path: Path) -> Path:
    """A random LoRA on the whisper adapter's modules, in the official layout; made unless it is there."""
    if not path.exists():
        leaves, tensors = ("to_q", "to_k", "to_v", "to_out.0"), {}
        linears = {t.name.removesuffix(".weight"): t for t in model.tensors("transformer") if t.name.endswith("weight")}
        for index, (name, tensor) in enumerate(sorted(linears.items())):
            parts = name.split(".")
            if len(parts) > 3 and parts[2] in WHISPER_MODULES and ".".join(parts[3:]) in leaves:
                out, into = tensor.shape
                for half, shape in (("A", (RANK, into)), ("B", (out, RANK))):
                    value = mx.random.normal(shape, key=mx.random.key(index)) * shape[1] ** -0.5 * 0.5
                    tensors[f"diffusion_model.{name}.lora_{half}.weight"] = value.astype(mx.bfloat16)
        mx.save_safetensors(str(path), tensors)
    return path


def picked(folder: Path, size: str, request: Request, limit: int) -> str:
    """The best precision of which every block stays in memory."""
    for precision in PRECISIONS:
        model = ModelDir.open(directory(folder, size, precision))
        try:
            if plan(dataclasses.replace(request, adapters=()), model, limit).budget.residency is RESIDENT:
                return precision
        except UserError:
            continue
    return PRECISIONS[-1]


def made(request: Request, model: ModelDir, limit: int) -> dict[str, Any]:
    """Runs one tier in this process; what came of it: seconds, peaks beside the plan's, hashes."""
    job = plan(request, model, limit)
    hashes, seconds, clock = {}, dict.fromkeys(("text", "steps", "sound", "picture"), 0.0), time.perf_counter()

    def took(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[name], clock = round(seconds[name] + now - clock, 2), now

    with watched() as peaks:
        for event in run(job):
            if isinstance(event, Conditioned):
                took("text")
            elif isinstance(event, Step):
                took("steps")
                streams = [event.latents.video, event.latents.audio, event.latents.adapted]
                hashes["latents"] = digest(*(np.array(x.astype(mx.float32)) for x in streams if x is not None))
            elif isinstance(event, Decoded):
                took("sound")
                hashes["sound"] = digest(event.waveform)
                assert event.video is not None
                hashes["picture"] = digest(*event.video)
                took("picture")
    said = predicted(job)
    return {
        "line": job.budget.line, "blocks": job.budget.residency.layers, "took": seconds,
        "peaks": {part: [round(peak / GB, 3), round(said[part] / GB, 3)] for part, peak in peaks.items()},
        "largest_gb": round(max(peaks.values()) / GB, 2), "resident_gb": round(resident_memory() / GB, 2),
        "hashes": hashes,
    }  # fmt: skip


def digest(*arrays: np.ndarray) -> str:
    """Of their bytes, short."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()[:16]


@contextlib.contextmanager
def ballast(limit: int) -> Iterator[dict[str, Any]]:
    """The rest of the card is taken meanwhile; gives what the card's driver saw, when it is over."""
    seen: dict[str, Any] = {}
    if not on_cuda():
        yield seen
        return
    command = [sys.executable, "-m", "scripts.ballast", "--leave", str(limit + CONTEXT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield seen
        finally:
            told = json.loads(process.communicate("", timeout=30)[0])
            seen["card_used_gb"] = round((told["first"] - told["least"]) / GB, 2)
            seen["card_left_gb"] = round(told["first"] / GB, 2)


def tier(name: str, arguments: list[str], limit: int, timeout: float) -> dict[str, Any]:
    """Runs one tier in a process of its own, with the rest of the card taken."""
    clock = time.perf_counter()
    environment = os.environ | {"MLX_LTXW_CACHE": "0"}  # the text encoder runs each time
    command = [sys.executable, "-m", "scripts.tiers", *arguments, "--one", name]
    result: dict[str, Any]
    with ballast(limit) as seen:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
            lines = done.stdout.strip().splitlines()
            result = json.loads(lines[-1]) if not done.returncode and lines else {"failed": done.stderr[-600:]}
        except subprocess.TimeoutExpired:
            result = {"failed": f"not done after {timeout:.0f} s"}
    return {"tier": name, **seen, "seconds": round(time.perf_counter() - clock, 1), **result}


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="Of the model directories.")
@click.option("--tier", "tiers", multiple=True, metavar="GB:PRECISION", help="bf16, q8, q4 or picked.")
@click.option("--size", default="22b", help="Of the model: tiny, small, 22b.")
@click.option("--width", default=704)
@click.option("--height", default=480)
@click.option("--frames", default=97)
@click.option("--steps", default=2)
@click.option("--timeout", default=150.0, help="Seconds for one tier.")
@click.option("--within", default=540.0, help="Seconds for all; no tier begins later.")
@click.option("--one", help="Used by the script itself: run this tier here.")
def main(
    folder: Path, tiers: tuple[str, ...], size: str, width: int, height: int, frames: int, steps: int, timeout: float,
    within: float, one: str | None,
) -> None:  # fmt: skip
    """Measures a clip in each tier of memory."""
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    request = Request(PROMPT, seeds=(1,), width=width, height=height, frames=frames, steps=steps, dtype=None)
    if one:
        gigabytes, _, precision = one.partition(":")
        model = ModelDir.open(folder / precision)
        request = dataclasses.replace(request, adapters=(str(folder / "adapter.safetensors"),))
        report(**made(request, model, int(float(gigabytes) * GB)))
        return
    adapter_file(ModelDir.open(directory(folder, size, "bf16")), folder / "adapter.safetensors")
    arguments = ["--folder", str(folder), "--size", size, "--width", str(width), "--height", str(height)]
    arguments += ["--frames", str(frames), "--steps", str(steps)]
    first: dict[str, Any] = {}
    for name in tiers:
        if time.perf_counter() - began > within:
            report(tier=name, failed="no time left")
            continue
        gigabytes, _, precision = name.partition(":")
        limit = int(float(gigabytes) * GB)
        precision = picked(folder, size, request, limit) if precision == "picked" else precision
        directory(folder, size, precision)
        result = tier(f"{gigabytes}:{precision}", arguments, limit, timeout)
        if "hashes" in result:
            result["equal"] = result["hashes"] == first.setdefault(precision, result["hashes"])
        report(**result)


if __name__ == "__main__":
    main()
