"""A gated sum, the norm behind it and what modulates that, in one kernel.

A block of threads keeps the modulation's rows in its registers and goes over the tokens, each of which is read once and
written once. Sums of squares are float32; the stream is rounded where it is written, and its norm is of what was
written, so that both are to the bit what separate kernels of ours give.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlx_ltxw.models.ops.cuda.source import LANES, Row, is_own, kernel, offsets, short, start, summands, takes_rows
from mlx_ltxw.models.ops.trial import close, working

THREADS, CORES = 1024, 132
"""Threads that work together on a core, and cores: as many as an H100 or H200 has. More tokens are taken by turns."""

_BEGIN = """
  constexpr int PARTS = WIDTH / (8 * THREADS);
  __shared__ float sums[2][32];
  int clip = blockIdx.x % CLIPS;
  float scales[COUNT][8 * PARTS], shifts[COUNT][8 * PARTS];
"""
_ROW = "  kept<PARTS, THREADS>({to}, {names});\n"
_ROWS = """
  #pragma unroll
  for (int one = 0; one < COUNT; ++one)
    #pragma unroll
    for (int i = 0; i < 8 * PARTS; ++i) scales[one][i] = 1.0f + scales[one][i];
  int rows = x_shape[0] * x_shape[1] / CLIPS, step = gridDim.x / CLIPS;
  size_t at = (size_t(clip) * rows + blockIdx.x / CLIPS) * WIDTH + threadIdx.x * 8;
  Eight<T> next[PARTS], more[PARTS];
  #pragma unroll
  for (int part = 0; part < PARTS; ++part) FETCH
  for (int row = blockIdx.x / CLIPS, turn = 0; row < rows; row += step, turn ^= 1, at += size_t(step) * WIDTH) {
    Eight<T> own[PARTS];
    float sum = 0.0f;
    #pragma unroll
    for (int part = 0; part < PARTS; ++part) own[part] = next[part];
"""
_READ = "next[part] = eight(x + at + part * THREADS * 8);"
_READ_BOTH = (
    "{ next[part] = eight(x + at + part * THREADS * 8); more[part] = eight(update + at + part * THREADS * 8); }"
)
_ADDED = """
    #pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      #pragma unroll
      for (int i = 0; i < 8; ++i)
        own[part].of[i] = static_cast<T>(
            static_cast<float>(own[part].of[i]) + static_cast<float>(more[part].of[i]) * gates[part * 8 + i]);
      put(after + at + part * THREADS * 8, own[part]);
    }
"""
_NORMED = """
    if (row + step < rows) {  // what comes next is on its way while this is added up and written
      at += size_t(step) * WIDTH;
      #pragma unroll
      for (int part = 0; part < PARTS; ++part) FETCH
      at -= size_t(step) * WIDTH;
    }
    #pragma unroll
    for (int part = 0; part < PARTS; ++part)
      #pragma unroll
      for (int i = 0; i < 8; ++i) {
        float value = static_cast<float>(own[part].of[i]);
        sum += value * value;
      }
    float factor = rsqrtf(sum_of_all<THREADS>(sum, sums[turn]) / WIDTH + EPS);
    #pragma unroll
    for (int part = 0; part < PARTS; ++part) {
"""
_OUT = """
      {{
        Eight<T> result;
        #pragma unroll
        for (int i = 0; i < 8; ++i)
          result.of[i] = static_cast<T>(
              static_cast<float>(own[part].of[i]) * factor * scales[{one}][part * 8 + i] + shifts[{one}][part * 8 + i]);
        put(out{one} + at + part * THREADS * 8, result);
      }}
"""


def takes(x: mx.array, *rows: Row) -> bool:
    """Whether the kernels take such tokens and rows: on CUDA, where all tokens share their rows."""
    return takes_rows(x, *rows) and working(_works, x.dtype, x.shape[-1])


def modulated(x: mx.array, rows: Sequence[tuple[Row, Row]], eps: float) -> list[mx.array]:
    """`norm(x) * (1 + scale) + shift` of (B, T, W), for each pair of scale and shift."""
    return _started(x, None, rows, eps)


def added(
    x: mx.array, update: mx.array, gate: Row, rows: Sequence[tuple[Row, Row]], eps: float
) -> tuple[mx.array, list[mx.array]]:
    """The sum `x + update * gate` of (B, T, W), and `modulated` of it."""
    after, *normed = _started(x, (update, gate), rows, eps)
    return after, normed


def _started(
    x: mx.array, change: tuple[mx.array, Row] | None, rows: Sequence[tuple[Row, Row]], eps: float
) -> list[mx.array]:
    width = x.shape[-1]
    threads = min(512, width // LANES)
    given = [*((change[1],) if change else ()), *(row for pair in rows for row in pair)]
    clips = len(x) if any(is_own(row, x) for row in given) else 1  # each block of threads is for one
    made = _kernel(change is not None, tuple(offsets(row, x) for row in given), eps)
    arrays = [x, *((change[0],) if change else ()), *(array for row in given for array, _ in summands(row))]
    together = max(1, THREADS // threads)
    constants = [
        ("T", x.dtype), ("WIDTH", width), ("THREADS", threads), ("COUNT", len(rows)), ("CLIPS", clips),
        ("TOGETHER", together),
    ]  # fmt: skip
    results = len(rows) + (change is not None)
    blocks = clips * min(x.size // width // clips, max(1, CORES * together // clips))
    return start(made, arrays, constants, blocks, threads, [(x.shape, x.dtype)] * results)


@functools.cache
def _kernel(adds: bool, places: tuple[tuple[str, ...], ...], eps: float) -> Any:
    """The kernel for rows of one or two summands, at those offsets: the gate's, then each scale's and shift's."""
    count = len(places) // 2
    into = [*(["gates"] if adds else []), *(f"{name}[{one}]" for one in range(count) for name in ("scales", "shifts"))]
    names = [[f"row{number}_{part}" for part in range(len(row))] for number, row in enumerate(places)]
    sums = [[f"{name} + {at}" for name, at in zip(*pair, strict=True)] for pair in zip(names, places, strict=True)]
    source = _BEGIN + ("  float gates[8 * PARTS];\n" if adds else "")
    source += "".join(_ROW.format(to=to, names=", ".join(row)) for to, row in zip(into, sums, strict=True))
    loop = _ROWS + (_ADDED if adds else "") + _NORMED.replace("EPS", f"{eps!r}f")
    source += loop.replace("FETCH", _READ_BOTH if adds else _READ)
    source += "".join(_OUT.format(one=one) for one in range(count)) + "    }\n  }\n"
    inputs = ("x", *(("update",) if adds else ()), *(name for row in names for name in row))
    outputs = (*(("after",) if adds else ()), *(f"out{one}" for one in range(count)))
    called = "_".join(["added_norm" if adds else "norm", *(short(row) for row in places)])
    return kernel(called, inputs, outputs, source)


def _works(dtype: mx.Dtype, width: int) -> bool:
    """By a formula in float32, of two batches of two tokens."""
    keys = iter(mx.random.split(mx.random.key(0), 8))
    x, update = (mx.random.normal((2, 2, width), key=next(keys)).astype(dtype) for _ in range(2))
    scale, shift, gate, table = (mx.random.normal((1, 1, width), key=next(keys)) for _ in range(4))
    after, (got, other) = added(x, update, (table[0], gate), [(scale, shift), ((table[0], shift), scale)], 1e-6)
    (alone,) = modulated(x, [(scale, shift)], 1e-6)
    summed = x.astype(mx.float32) + update.astype(mx.float32) * (table + gate)
    normed, before = (mx.fast.rms_norm(y.astype(dtype).astype(mx.float32), None, 1e-6) for y in (summed, x))
    return (
        close(after, summed)
        and close(got, normed * (1 + scale) + shift)
        and close(other, normed * (1 + table + shift) + scale)
        and close(alone, before * (1 + scale) + shift)
    )
