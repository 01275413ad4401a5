"""What streaming the transformer's blocks costs: seconds of a forward and peak memory, by how many stay in memory.

    python -m scripts.bench.streaming --resident 48 --resident 24 --resident 0

Writes a transformer of random weights in bf16 to --folder (38 GB at full size), reads it through the page cache, and
prints one JSON object a line: seconds, `peak_gb` (MLX's, weights and all), bytes read
and seconds stood still for reading in one forward, and whether the result equals that with all blocks in memory. To
try it out on a CPU: --layers 4 --scale 8 --width 64 --height 64 --frames 9 --text-tokens 32 --runs 1
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_ltxw.machine import this_machine
from mlx_ltxw.models.transformer import NO_SKIPS, Transformer, TransformerConfig, Walk
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.weights.dtype import memory_dtype
from mlx_ltxw.weights.header import Tensor, read_header
from mlx_ltxw.weights.loading import fill, read_arrays
from mlx_ltxw.weights.streaming import RESIDENT, Residency, stream_layers
from scripts.random_model import (
    GRID,
    begin,
    fill_randomly,
    inputs,
    median,
    mlx_inputs,
    model_options,
    read_sections,
    report,
)

DTYPE = mx.bfloat16
NAME = "transformer_blocks"


def write(folder: Path, config: TransformerConfig) -> list[Path]:
    """A block a file, and one for the rest; block by block, so that no more than one is in memory."""
    files = []
    outside = Transformer(config)
    blocks, outside.transformer_blocks = outside.transformer_blocks, []
    parts: list[tuple[str, Any]] = [("", outside)]
    parts += [(f"{NAME}.{index}.", block) for index, block in enumerate(blocks)]
    del blocks
    while parts:
        prefix, part = parts.pop()
        fill_randomly(part, DTYPE)
        files.append(folder / f"{prefix or 'rest.'}safetensors")
        mx.save_safetensors(
            str(files[-1]), {f"{prefix}{name}": value for name, value in tree_flatten(part.parameters())}
        )
        del part
        mx.clear_cache()
    return files


def opened(files: list[Path], config: TransformerConfig, residency: Residency) -> Transformer:
    """The written transformer."""
    model = Transformer(config)

    def in_memory(name: str, stored: mx.Dtype) -> mx.Dtype:
        return memory_dtype("transformer", name, stored, DTYPE)

    fill(model, {name: value.astype(in_memory(name, value.dtype)) for name, value in read_arrays(files).items()}, "it")
    tensors: dict[str, Tensor] = {name: one for file in files for name, one in read_header(file).tensors.items()}
    if residency is not RESIDENT:
        stream_layers(model, NAME, tensors, in_memory, residency)
    return model.eval()


def measure(model: Transformer, video: Any, audio: Any, runs: int) -> tuple[list[mx.array], float, int, Any]:
    """One forward that is not counted, then the median of some; the result, seconds, peak, traffic of one forward."""
    walk = Walk.bounded(this_machine().in_pieces)
    blocks: Any = model.transformer_blocks
    seconds, made, read, waited = [], None, 0, 0.0
    for run in range(runs + 1):
        before = getattr(blocks, "traffic", None)
        clock = time.perf_counter()
        made = model(video, audio, NO_SKIPS, walk)
        mx.eval(made)
        seconds.append(time.perf_counter() - clock)
        if run == 0:
            mx.reset_peak_memory()
        if before is not None:
            read = blocks.traffic.bytes_read - before.bytes_read
            waited = blocks.traffic.waited - before.waited
    assert made is not None
    return list(made), median(seconds[1:]), mx.get_peak_memory(), (read, waited)


@click.command()
@model_options(704, 480)
@click.option("--resident", multiple=True, type=int, default=(48, 0), help="Blocks that stay in memory.")
@click.option("--ahead", default=1, help="Blocks that are read ahead.")
@click.option("--runs", default=5, help="Timed forwards after one that is not counted.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the weights are written.  [default: temporary]")
def main(
    width: int, height: int, frames: int, frame_rate: float, text_tokens: int, layers: int | None, scale: int,
    config: Any, resident: tuple[int, ...], ahead: int, runs: int, folder: Path | None,
) -> None:  # fmt: skip
    """Measures what streaming costs."""
    transformer = TransformerConfig.read(read_sections(config, layers, scale)["transformer"])
    geometry = Geometry(width, height, frames, frame_rate, GRID)
    begin(geometry, text_tokens=text_tokens)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        clock = time.perf_counter()
        files = write(Path(place), transformer)
        size = sum(file.stat().st_size for file in files)
        report(what="written", gb=round(size / 1e9, 2), seconds=round(time.perf_counter() - clock, 1))
        video, audio = mlx_inputs(transformer, inputs(transformer, geometry, text_tokens), DTYPE)
        mx.eval(video, audio)
        whole = None
        for count in resident:
            residency = RESIDENT if count >= transformer.layers else Residency(count, ahead=ahead)
            model = opened(files, transformer, residency)
            made, seconds, peak, (read, waited) = measure(model, video, audio, runs)
            whole = whole or made
            report(
                what=f"{count} of {transformer.layers} blocks in memory", seconds=round(seconds, 4),
                peak_gb=round(peak / 1e9, 3), read_gb=round(read / 1e9, 3), waited=round(waited, 3),
                equal=all(bool(mx.array_equal(*pair)) for pair in zip(made, whole, strict=True)),
            )  # fmt: skip
            del model, made
            mx.clear_cache()


if __name__ == "__main__":
    main()
