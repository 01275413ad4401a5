"""How fast blocks come from disk: reading into staging, and the device's copy out of it, in GB/s.

    python -m scripts.reading_cost MODEL --readers 4 --readers 8 --readers 16

prints one JSON object a line: each alone over `--blocks` blocks, then both by turns as a walk asks for them, with
nothing computed beside them. `--advice` leaves MLX's managed memory on CUDA without advice, for comparison.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx

from mlx_ltxw.machine import settle, this_machine
from mlx_ltxw.weights import staging
from mlx_ltxw.weights.dtype import default_dtype
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import STREAMED
from scripts.random_model import report


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--readers", multiple=True, type=int, default=(4, 8, 16), help="Threads that read.")
@click.option("--blocks", default=12)
@click.option("--advice/--no-advice", default=True)
def main(model: Path, readers: tuple[int, ...], blocks: int, advice: bool) -> None:
    """Measures how fast blocks come."""
    settle()
    mx.set_cache_limit(this_machine().cache_limit)
    if not advice:
        staging._keep_on_host = lambda memory: None
    streamed: Any = ModelDir.open(model).load_transformer(default_dtype(), residency=STREAMED).transformer_blocks
    count = min(blocks, len(streamed))
    for threads in readers:
        streamed._reader._pool = ThreadPoolExecutor(threads)
        place = streamed._free.pop() if streamed._free else staging.Staging(staging.room(streamed.streamed[0].values()))
        seconds = {"read": 0.0, "copied": 0.0}
        for index in range(count):
            tensors = streamed.streamed[index]
            began = time.perf_counter()
            streamed._reader.fill(place.places(tensors))
            middle = time.perf_counter()
            made = place.taken(tensors, lambda path, stored: streamed._dtype_of(0, path, stored))
            seconds["read"] += (middle - began) if index else 0
            seconds["copied"] += (time.perf_counter() - middle) if index else 0
            del made
        streamed._free.append(place)
        size = sum(tensor.nbytes for tensor in streamed.streamed[0].values()) * (count - 1) / 1e9
        streamed[0]
        began = time.perf_counter()
        for index in range(1, count):
            streamed[index]
        turns = time.perf_counter() - began
        report(
            readers=threads, advice=advice, both_gb_s=round(size / turns, 2),
            **{f"{name}_gb_s": round(size / took, 2) for name, took in seconds.items()},
        )  # fmt: skip


if __name__ == "__main__":
    main()
