"""Whether a batch of takes is computed as one take is: each kernel's distance from float32, and its bits.

    python -m scripts.takes_kernels --takes 8

Of every operation of an audio block at the real widths, on random bfloat16 input: `one` is the error of a take alone,
`batch` that of the same take among others, both root mean squares over takes and relative to the float32 result;
`rounded` is that of the float32 result rounded once, which no kernel can be better than; `rows_equal` says how many
takes come out as the same bits. On CUDA norms are also made by kernels apart.

To try it out on a CPU: --scale 8 --text-tokens 64 --width 128 --height 128 --frames 25
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_ltxw.adapter.rows import RowsLinear
from mlx_ltxw.models.transformer import TransformerConfig
from mlx_ltxw.models.transformer.adaln import modulated_norm
from mlx_ltxw.models.transformer.attention import attend
from mlx_ltxw.models.transformer.rope import turned_norm
from mlx_ltxw.pipeline.geometry import Geometry
from scripts.bench.variants import with_kernels
from scripts.random_model import GRID, begin, model_options, read_sections, report, wide

Function = Callable[..., mx.array]


class Probe(NamedTuple):
    """An operation, with the inputs that takes have of their own and those that all share."""

    name: str
    function: Function
    own: tuple[mx.array, ...]
    shared: tuple[mx.array, ...] = ()

    def of(self, rows: slice, dtype: mx.Dtype) -> np.ndarray:
        own, shared = ([one.astype(dtype) for one in group] for group in (self.own, self.shared))
        return wide(self.function(*(one[rows] for one in own), *shared))

    def report(self, **more: str) -> None:
        takes = len(self.own[0])
        exact = self.of(slice(None), mx.float32)
        batch = self.of(slice(None), mx.bfloat16)
        ones = np.concatenate([self.of(slice(row, row + 1), mx.bfloat16) for row in range(takes)])
        rounded = wide(mx.array(exact).astype(mx.bfloat16))
        errors = {name: _error(got, exact) for name, got in (("one", ones), ("batch", batch), ("rounded", rounded))}
        equal = sum(bool(np.array_equal(a, b)) for a, b in zip(ones, batch, strict=True))
        ratio = round(errors["batch"] / errors["one"], 4) if errors["one"] else None
        report(what=self.name, **more, **errors, ratio=ratio, rows_equal=f"{equal} of {takes}")


def _error(got: np.ndarray, exact: np.ndarray) -> float:
    error = np.linalg.norm(got.astype(np.float64) - exact) / np.linalg.norm(exact.astype(np.float64))
    return float(f"{error:.4g}")


def probes(config: TransformerConfig, geometry: Geometry, text_tokens: int, takes: int) -> Iterator[Probe]:
    """The operations of an audio block."""
    keys = iter(mx.random.split(mx.random.key(1), 64))

    def random(*shape: int, spread: float = 1.0) -> mx.array:
        return (spread * mx.random.normal(shape, key=next(keys))).astype(mx.bfloat16)

    audio, tokens = config.audio, geometry.audio_tokens
    dim, heads, width = audio.dim, audio.heads, audio.head_dim
    for name, rows, fan_in, fan_out in (
        ("projection", tokens, dim, dim), ("feed-forward, in", tokens, dim, 4 * dim),
        ("feed-forward, out", tokens, 4 * dim, dim), ("text's keys", text_tokens, audio.context_dim, dim),
        ("gate of heads", tokens, dim, heads),
    ):  # fmt: skip
        weight, bias = random(fan_out, fan_in, spread=fan_in**-0.5), random(fan_out, spread=0.1)
        yield Probe(name, lambda x, w, b: mx.addmm(b, x, w.T), (random(takes, rows, fan_in),), (weight, bias))
    yield _of_rows(random, takes, tokens, dim)

    scale, scores = width**-0.5, ("attention to itself", "attention to own text")
    for name, reads in zip(scores, (tokens, text_tokens), strict=True):
        own = tuple(random(takes, heads, count, width) for count in (tokens, reads, reads))
        yield Probe(name, lambda q, k, v: attend(q, k, v, scale), own)
    for name, reads in (("attention to one text", text_tokens), ("attention to the video", geometry.video_tokens)):
        shared = random(1, heads, reads, width), random(1, heads, reads, width)
        yield Probe(name, lambda q, k, v: attend(q, k, v, scale), (random(takes, heads, tokens, width),), shared)

    shift, gain = (random(1, 1, dim).astype(mx.float32) for _ in range(2))
    yield Probe("norm and modulation", lambda x: modulated_norm(x, gain, shift, 1e-6), (random(takes, tokens, dim),))
    angles = mx.random.normal((1, tokens, heads, width // 2), key=next(keys))
    turns = mx.cos(angles).astype(mx.bfloat16), mx.sin(angles).astype(mx.bfloat16)
    weight = random(dim)
    yield Probe("norm and rotation", lambda x, *y: turned_norm(x, y[0], 1e-6, *y[1:]), (random(takes, tokens, dim),),
                (weight, *turns))  # fmt: skip


def _of_rows(random: Callable[..., mx.array], takes: int, tokens: int, dim: int) -> Probe:
    """A linear with an adapter of four voices: alone a row of one voice, as rows of a batch."""
    linear = nn.Linear(dim, dim, bias=False)
    linear.weight = random(dim, dim, spread=dim**-0.5)
    a, b, scales = random(64, dim, spread=dim**-0.5), random(dim, 64, spread=0.02), mx.ones((takes, 64))

    def function(x: mx.array, w: mx.array, a: mx.array, b: mx.array) -> mx.array:
        linear.weight = w
        return RowsLinear(linear, a, b, scales[: len(x)])(x)

    return Probe("projection with rows' adapters", function, (random(takes, tokens, dim),), (linear.weight, a, b))


@click.command()
@model_options(704, 480)
@click.option("--takes", default=8)
def main(
    width: int, height: int, frames: int, frame_rate: float, text_tokens: int, layers: int | None, scale: int,
    config: Path, takes: int,
) -> None:  # fmt: skip
    """Compares kernels of a batch of takes with those of one."""
    geometry = Geometry(width, height, frames, frame_rate, GRID)
    begin(geometry, takes=takes, scale=scale)
    sizes = TransformerConfig.read(read_sections(config, layers, scale)["transformer"])
    for probe in probes(sizes, geometry, text_tokens, takes):
        probe.report()
        if probe.name.startswith("norm"):
            with with_kernels(False):
                probe.report(kernels="apart")


if __name__ == "__main__":
    main()
