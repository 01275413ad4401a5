"""Elementwise operations with one number for many: MLX's own kernels read all inputs of such number by number."""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx

from mlx_ltxw.models.ops.columns import Projection, located
from mlx_ltxw.models.ops.cuda import source
from mlx_ltxw.models.ops.cuda.source import LANES, Row, kernel, offsets, short, start, summands, takes_rows
from mlx_ltxw.models.ops.trial import close, working

_THREADS = 256
_BEGIN = """
  size_t at = (size_t(blockIdx.x) * THREADS + threadIdx.x) * 8;
  if (at >= size_t(x_shape[0]) * x_shape[1] * WIDTH) return;
  Eight<T> own = eight(x + at);
"""
_ROW = """
  int column = at % WIDTH;
  size_t clip = at / WIDTH / x_shape[1];
"""
_ADDED = """
  Eight<T> more = eight(update + at);
  #pragma unroll
  for (int i = 0; i < 8; ++i)
    own.of[i] = static_cast<T>(static_cast<float>(own.of[i]) + static_cast<float>(more.of[i]) * (GATE));
  put(out + at, own);
"""
_MODULATED = """
  #pragma unroll
  for (int i = 0; i < 8; ++i)
    own.of[i] = static_cast<T>(static_cast<float>(own.of[i]) * (1.0f + (SCALE)) + (SHIFT));
  put(out + at, own);
"""
_GELU = """
  size_t at = (size_t(blockIdx.x) * THREADS + threadIdx.x) * 8;
  Eight<T> own = eight(x + at);
  #pragma unroll
  for (int i = 0; i < 8; ++i) {
    float y = static_cast<float>(own.of[i]);
    own.of[i] = static_cast<T>(y / (1.0f + expf(-1.5957691216f * (y + 0.044715f * y * y * y))));
  }
  put(out + at, own);
"""
_SCALED = """
  float factor = 2.0f / (1.0f + expf(-static_cast<float>(logits[at / WIDTH * L_STRIDE + L_AT + at % WIDTH / HEAD])));
  #pragma unroll
  for (int i = 0; i < 8; ++i) own.of[i] = static_cast<T>(static_cast<float>(own.of[i]) * factor);
  put(out + at, own);
"""


def takes(x: mx.array, *rows: Row) -> bool:
    """Whether `add_gated` and `modulate` take these: on CUDA, where all tokens share their rows."""
    return takes_rows(x, *rows) and working(_works, x.dtype, x.shape[-1])


def add_gated(x: mx.array, update: mx.array, gate: Row) -> mx.array:
    """`x + update * gate` of (B, T, W)."""
    return _with_rows("add_gated", _ADDED, [x, update], {"GATE": gate})


def modulate(x: mx.array, scale: Row, shift: Row) -> mx.array:
    """`x * (1 + scale) + shift` of (B, T, W)."""
    return _with_rows("modulate", _MODULATED, [x], {"SCALE": scale, "SHIFT": shift})


def takes_gelu(x: mx.array) -> bool:
    """Whether `gelu` takes such numbers: on CUDA, 16-bit ones, for whole groups of threads."""
    if not source.on_cuda() or x.size % (LANES * _THREADS) or x.dtype not in (mx.bfloat16, mx.float16):
        return False
    return working(_gelu_works, x.dtype)


def gelu(x: mx.array) -> mx.array:
    """The tanh approximation of gelu, as `x sigmoid(2 z)`."""
    made = kernel("gelu", ("x",), ("out",), _GELU)
    constants = [("T", x.dtype), ("THREADS", _THREADS)]
    (out,) = start(made, [x], constants, _blocks(x), _THREADS, [(x.shape, x.dtype)])
    return out


def takes_heads(x: mx.array, logits: Projection) -> bool:
    """Whether `gate_heads` takes such heads (B, T, H, D), and logits of their dtype: on CUDA."""
    _, _, heads, width = x.shape
    if not source.on_cuda() or width % LANES or logits.dtype != x.dtype:
        return False
    return working(_heads_work, x.dtype, heads, width)


def gate_heads(x: mx.array, logits: Projection) -> mx.array:
    """Each head of (B, T, H, D) by `2 sigmoid(logit)` of (B, T, H)."""
    _, _, heads, width = x.shape
    of_gates, stride, first = located(logits)
    constants: list[tuple[str, Any]] = [
        ("T", x.dtype),
        ("HEAD", width),
        ("WIDTH", heads * width),
        ("THREADS", _THREADS),
    ]
    constants += [("L_STRIDE", stride), ("L_AT", first)]
    made = kernel("gate_heads", ("x", "logits"), ("out",), _BEGIN + _SCALED)
    (out,) = start(made, [x, of_gates], constants, _blocks(x), _THREADS, [(x.shape, x.dtype)])
    return out


def _blocks(x: mx.array) -> int:
    return -(-x.size // (LANES * _THREADS))


def _with_rows(name: str, code: str, tokens: list[mx.array], rows: dict[str, Row]) -> mx.array:
    x = tokens[0]
    made = _kernel(name, code, tuple((row, offsets(given, x)) for row, given in rows.items()))
    constants = [("T", x.dtype), ("WIDTH", x.shape[-1]), ("THREADS", _THREADS)]
    arrays = [*tokens, *(array for given in rows.values() for array, _ in summands(given))]
    (out,) = start(made, arrays, constants, _blocks(x), _THREADS, [(x.shape, x.dtype)])
    return out


@functools.cache
def _kernel(name: str, code: str, rows: tuple[tuple[str, tuple[str, ...]], ...]) -> Any:
    """The kernel for rows of one or two summands each, at those offsets."""
    inputs = ["x", *(["update"] if "update" in code else [])]
    for row, places in rows:
        names = [f"{row.lower()}{part}" for part in range(len(places))]
        parts = [f"static_cast<float>({one}[{at} + column + i])" for one, at in zip(names, places, strict=True)]
        code = code.replace(row, " + ".join(parts))
        inputs += names
    called = "_".join([name, *(short(places) for _, places in rows)])
    return kernel(called, tuple(inputs), ("out",), _BEGIN + _ROW + code)


def _works(dtype: mx.Dtype, width: int) -> bool:
    """By formulas in float32, of two batches of three tokens."""
    x, update, table = (mx.random.normal((2, 3, width), key=mx.random.key(i)).astype(dtype) for i in range(3))
    row, shift = (mx.random.normal((1, 1, width), key=mx.random.key(i)) for i in (3, 4))
    wide, change, table = x.astype(mx.float32), update.astype(mx.float32), table[0, :1]
    both = table.astype(mx.float32) + row
    return (
        close(add_gated(x, update, row), wide + change * row)
        and close(add_gated(x, update, (table, row)), wide + change * both)
        and close(modulate(x, row, shift), wide * (1 + row) + shift)
        and close(modulate(x, (table, row), (table, shift)), wide * (1 + both) + table.astype(mx.float32) + shift)
    )


def _gelu_works(dtype: mx.Dtype) -> bool:
    x = (3 * mx.random.normal((3, LANES * _THREADS), key=mx.random.key(0))).astype(dtype)
    y = x.astype(mx.float32)
    return close(gelu(x), y * mx.sigmoid(1.5957691216 * (y + 0.044715 * y * y * y)))


def _heads_work(dtype: mx.Dtype, heads: int, width: int) -> bool:
    x = mx.random.normal((2, 3, heads, width), key=mx.random.key(0)).astype(dtype)
    logits = mx.random.normal((2, 3, heads), key=mx.random.key(1)).astype(dtype)
    factors = 2 * mx.sigmoid(logits.astype(mx.float32))
    return close(gate_heads(x, logits), x.astype(mx.float32) * factors[..., None])
