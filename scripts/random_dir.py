"""A model directory of random weights at any size, written as fast as the disk takes it; no PyTorch, no checkpoint.

    python -m scripts.random_dir OUT --size 22b
    python -m scripts.random_dir OUT4 --size 22b --bits 4 --beside OUT

Names, shapes and dtypes are those that `convert` writes. A tensor is a stretch of one pool of normal numbers of its
scale, at a place that its name tells, so that no two blocks are alike. Packed weights are random bits whose scale gives
the same spread. `--beside` links all networks but the transformer from a directory that is there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_ltxw.convert.quantize import Quantization, in_blocks
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.components import COMPONENTS, TEXT_ENCODER, audio_side
from mlx_ltxw.weights.dtype import stays_float32
from mlx_ltxw.weights.loading import quantize_layers
from mlx_ltxw.weights.manifest import FileRecord, write_manifest
from scripts.made_sizes import SIZES, configuration
from scripts.random_values import mean_and_spread

POOL = 1 << 22
"""Elements of a pool."""
WRITERS = 8
CODES = {mx.bfloat16: "BF16", mx.float32: "F32", mx.uint32: "U32"}
Shapes = dict[str, tuple[tuple[int, ...], str]]
"""Parameter path -> shape and safetensors dtype."""


class Pools:
    """Random bytes by kind, drawn once each."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self._made: dict[tuple[str, float, float], memoryview] = {}

    def of(self, name: str, shape: tuple[int, ...], code: str) -> memoryview:
        """What a tensor's values come from."""
        mean, spread = mean_and_spread(name, shape)
        if name.endswith((".scales", ".biases")):  # a row of `group` weights each; see `packed_spread`
            step = packed_step(shape[1] * Quantization.parse(str(self.bits)).group_size, self.bits)
            mean, spread = (step if name.endswith(".scales") else -step * (2**self.bits - 1) / 2), 0.0
        key = (code, round(mean, 9), round(spread, 9))
        if key not in self._made:
            self._made[key] = self._draw(*key)
        return self._made[key]

    def _draw(self, code: str, mean: float, spread: float) -> memoryview:
        draw = np.random.default_rng(len(self._made))
        if code == "U32":
            return draw.integers(0, 2**32, POOL, np.uint32).data.cast("B")
        values = (mean + spread * draw.standard_normal(POOL, np.float32)).astype(np.float32)
        if code == "F32":
            return values.data.cast("B")
        return (values.view(np.uint32) >> 16).astype(np.uint16).data.cast("B")


def packed_step(width: int, bits: int) -> float:
    """The scale at which uniform packed weights have the spread of normal ones: 1/sqrt(width)."""
    return width**-0.5 * math.sqrt(12) / 2**bits


def write_file(path: Path, shapes: Shapes, pools: Pools) -> None:
    """A safetensors file, its tensors written by several threads."""
    sizes = {name: math.prod(shape) * (2 if code == "BF16" else 4) for name, (shape, code) in shapes.items()}
    entries: dict[str, Any] = {}
    places: dict[str, int] = {}
    at = 0
    for name, (shape, code) in shapes.items():
        places[name] = at
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [at, at := at + sizes[name]]}
    header = json.dumps({"__metadata__": {"format": "mlx"}, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.pwrite(handle, len(header).to_bytes(8, "little") + header, 0)
        start = 8 + len(header)
        with ThreadPoolExecutor(WRITERS) as pool:
            for _ in pool.map(
                lambda name: _write(handle, start + places[name], sizes[name],
                                    pools.of(name, *shapes[name]), zlib.crc32(name.encode())),
                [*shapes],
            ):  # fmt: skip
                pass
    finally:
        os.close(handle)


def _write(handle: int, at: int, left: int, pool: memoryview, place: int) -> None:
    begin = place % POOL * 4 % len(pool)
    while left:
        piece = pool[begin : begin + left]
        done = os.pwrite(handle, piece, at)
        at, left, begin = at + done, left - done, (begin + done) % len(pool)


def parameters(component: str, network: nn.Module, packing: Quantization | None) -> tuple[Shapes, dict[str, Any]]:
    """Of a network as `convert` stores it, and its quantised layers' settings."""
    layers = {
        path: packing.settings
        for path, layer in network.named_modules()
        if packing and isinstance(layer, nn.Linear) and in_blocks(component, path, layer.weight.shape[1], packing)
    }
    quantize_layers(network, layers)
    shapes: Shapes = {}
    for name, value in tree_flatten(network.parameters()):
        floats = "F32" if stays_float32(component, name) and component == "transformer" else "BF16"
        shapes[name] = (tuple(value.shape), "U32" if value.dtype == mx.uint32 else floats)
    return shapes, layers


def make_dir(out: Path, size: str, bits: int | None = None, beside: Path | None = None, **changes: Any) -> Path:
    """Writes the directory.

    Args:
        out: Is made.
        size: Of `scripts.made_sizes`.
        bits: 4 or 8 packs the transformer's blocks; None leaves bf16.
        beside: A directory of the same size to link the other networks from.
        changes: As for `configuration`, with `__` for `.`.
    """
    config, gemma = configuration(size, {name.replace("__", "."): value for name, value in changes.items()})
    packing, pools, quantization = Quantization.parse(str(bits)) if bits else None, Pools(bits or 0), {}
    out.mkdir(parents=True, exist_ok=True)
    text_config = {"model_type": "gemma3_text", **gemma}
    for name, component in COMPONENTS.items():
        own = packing if name == "transformer" else None
        if beside is not None and name != "transformer":
            for file in beside.glob(f"{name}/*" if name == TEXT_ENCODER else f"{name}*"):
                target = out / file.relative_to(beside)
                target.parent.mkdir(exist_ok=True)
                os.link(file, target)
            continue
        numbers = {}
        if name == "text_projection":
            numbers = {"text_width": gemma["hidden_size"], "text_states": gemma["num_hidden_layers"] + 1}
        read = component.read_config(text_config if name == TEXT_ENCODER else config, **numbers)
        shapes, layers = parameters(name, component.build(read), own)
        if layers:
            quantization[name] = layers
        _write_component(out, name, shapes, pools)
    if beside is None:
        _text_files(out / TEXT_ENCODER, text_config)
    about = {"variant": "dev", "model_version": "2.3.0", "source": {}, "config": config}
    (out / "config.json").write_text(json.dumps(about | ({"quantization": quantization} if quantization else {})))
    records = {str(file.relative_to(out)): _record(file) for file in out.rglob("*") if file.is_file()}
    write_manifest(out, records, hashlib.sha256(out.name.encode()).hexdigest())
    return out


def _write_component(out: Path, name: str, shapes: Shapes, pools: Pools) -> None:
    stem = "text_encoder/model" if name == TEXT_ENCODER else name
    if name == TEXT_ENCODER:
        shapes = {f"model.{path}": value for path, value in shapes.items()}
    groups: Mapping[str, Shapes] = {stem: shapes}
    if name == "transformer":
        groups = {
            "transformer.video": {path: value for path, value in shapes.items() if not audio_side(path)},
            "transformer.audio": {path: value for path, value in shapes.items() if audio_side(path)},
        }
    index: dict[str, str] = {}
    for start, group in groups.items():
        file = f"{start}-00001-of-00001.safetensors"
        write_file(out / file, group, pools)
        index |= dict.fromkeys(group, Path(file).name)
    (out / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def _text_files(folder: Path, config: dict[str, Any]) -> None:
    """The built-in model's tokenizer: its words are few, but any vocabulary has room for them."""
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(BUILTIN_MODEL / "text_encoder" / name, folder / name)


def _record(file: Path) -> FileRecord:
    """With a hash of the name and size: nothing here checks contents, and hashing would take minutes."""
    size = file.stat().st_size
    return FileRecord(size, hashlib.sha256(f"{file.name} {size}".encode()).hexdigest())


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--size", type=click.Choice(SIZES), default="tiny")
@click.option("--bits", type=click.Choice(["4", "8"]))
@click.option("--beside", type=click.Path(path_type=Path, exists=True))
def main(out: Path, size: str, bits: str | None, beside: Path | None) -> None:
    """Makes a model directory of random weights."""
    make_dir(out, size, int(bits) if bits else None, beside)


if __name__ == "__main__":
    main()
