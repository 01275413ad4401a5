"""The norm of queries or keys, or of both, and their rotation, in one kernel."""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx

from mlx_ltxw.models.ops.columns import Columns, Projection, aligned, located
from mlx_ltxw.models.ops.cuda import source
from mlx_ltxw.models.ops.cuda.source import LANES, kernel, start, takes_rows
from mlx_ltxw.models.ops.trial import close, working

_ONE = """
  const T* from = x + size_t(blockIdx.x) * X_STRIDE + X_AT;
  const W* own = weight;
  T* to = out + size_t(blockIdx.x) * WIDTH;
"""
_ONE_TURNED = """
  size_t angle = size_t(blockIdx.x % x_shape[1]) * (WIDTH / 2);
  const R *cosines = cos + angle, *sines = sin + angle;
"""
_TWO = """
  int rows = x_shape[0] * x_shape[1];
  bool second = blockIdx.x >= rows;
  size_t row = second ? blockIdx.x - rows : blockIdx.x;
  const T* from = second ? y + row * Y_STRIDE + Y_AT : x + row * X_STRIDE + X_AT;
  const W* own = second ? other_weight : weight;
  T* to = (second ? other : out) + row * WIDTH;
"""
_TWO_TURNED = """
  size_t angle = row % (second ? y_shape[1] : x_shape[1]) * (WIDTH / 2);
  const R *cosines = (second ? other_cos : cos) + angle, *sines = (second ? other_sin : sin) + angle;
"""
_NORM = """
  constexpr int HALF = HEAD / 2;
  __shared__ float sums[32];
  int half = threadIdx.x * 8;
  int at = half / HALF * HEAD + half % HALF;
  Eight<T> first = eight(from + at), second_half = eight(from + at + HALF);
  Eight<W> weight_a = eight(own + at), weight_b = eight(own + at + HALF);
  float sum = 0.0f;
  #pragma unroll
  for (int i = 0; i < 8; ++i) {
    float a = static_cast<float>(first.of[i]), b = static_cast<float>(second_half.of[i]);
    sum += a * a + b * b;
  }
  float factor = rsqrtf(sum_of_all<THREADS>(sum, sums) / WIDTH + EPS);
"""
_ANGLES = """
  Eight<R> c = eight(cosines + half), s = eight(sines + half);
"""
_OUT = """
  #pragma unroll
  for (int i = 0; i < 8; ++i) {
    float a = static_cast<float>(first.of[i]) * factor * static_cast<float>(weight_a.of[i]);
    float b = static_cast<float>(second_half.of[i]) * factor * static_cast<float>(weight_b.of[i]);
    WRITTEN
  }
  put(to + at, first);
  put(to + at + HALF, second_half);
"""
_AS_IT_IS = "first.of[i] = static_cast<T>(a); second_half.of[i] = static_cast<T>(b);"
_TURNED = """
    float cosine = static_cast<float>(c.of[i]), sine = static_cast<float>(s.of[i]);
    first.of[i] = static_cast<T>(a * cosine - b * sine);
    second_half.of[i] = static_cast<T>(b * cosine + a * sine);
"""

Angles = tuple[mx.array, mx.array]


def takes(x: mx.array, cos: mx.array) -> bool:
    """Whether `turned_norm` takes such queries or keys: on CUDA, where all of a batch are turned alike."""
    if not takes_rows(x) or len(cos) != 1:
        return False
    return working(_works, x.dtype, x.shape[-1], cos.dtype, 2 * cos.shape[-1])


def takes_both(x: Projection, y: Projection, turns: Angles | None, other: Angles | None) -> bool:
    """Whether `turned_pair` takes such queries and keys: both turned, or none of them."""
    if x.shape[-1] != y.shape[-1] or x.dtype != y.dtype or (turns is None) != (other is None):
        return False
    if not (source.takes_width(x.shape[-1]) and aligned(x, LANES) and aligned(y, LANES)):
        return False
    if any(len(each[0]) != 1 for each in (turns, other) if each is not None):
        return False
    angles, head = (x.dtype, 0) if turns is None else (turns[0].dtype, 2 * turns[0].shape[-1])
    return working(_pair_works, x.dtype, x.shape[-1], angles, head)


def turned_norm(x: Projection, weight: mx.array, eps: float, cos: mx.array, sin: mx.array) -> mx.array:
    """RMS norm of (B, T, H * D) with a weight (H * D), as heads (B, T, H, D) whose halves are turned.

    Args:
        x: Queries or keys.
        weight: Of the norm.
        eps: Added to the mean square.
        cos, sin: (1, T, H, D / 2).
    """
    (out,) = _started([x], [weight], eps, 2 * cos.shape[-1], [(cos, sin)])
    return out


def turned_pair(
    x: Projection, y: Projection, weights: tuple[mx.array, mx.array], eps: float, head: int, turns: Angles | None,
    other: Angles | None,
) -> list[mx.array]:  # fmt: skip
    """`turned_norm` of queries (B, T, H * D) and of keys (C, S, H * D), in one start; or their norms alone.

    Args:
        x, y: Queries and keys.
        weights: Of their norms.
        eps: Added to the mean squares.
        head: D, the width of a head.
        turns, other: Of each, cosines and sines (1, T, H, D / 2); None for neither.
    """
    return _started([x, y], [*weights], eps, head, [] if turns is None or other is None else [turns, other])


def _started(
    parts: list[Projection], weights: list[mx.array], eps: float, head: int, turns: list[Angles]
) -> list[mx.array]:  # fmt: skip
    width, dtype = parts[0].shape[-1], parts[0].dtype
    threads = width // (2 * LANES)
    constants: list[tuple[str, Any]] = [("T", dtype), ("W", weights[0].dtype)]
    constants += [("R", turns[0][0].dtype)] if turns else []
    constants += [("WIDTH", width), ("HEAD", head), ("THREADS", threads)]
    arrays, rows = [], 0
    for name, part in zip("XY", parts, strict=False):
        array, stride, start_at = located(part)
        constants += [(f"{name}_STRIDE", stride), (f"{name}_AT", start_at)]
        arrays.append(array)
        rows += part.shape[0] * part.shape[1]
    like = [((*part.shape[:2], width // head, head), dtype) for part in parts]
    arrays += [*weights, *(table for each in turns for table in each)]
    return start(_kernel(len(parts), bool(turns), eps), arrays, constants, rows, threads, like)


@functools.cache
def _kernel(parts: int, turned: bool, eps: float) -> Any:
    begin, angles = (_ONE, _ONE_TURNED) if parts == 1 else (_TWO, _TWO_TURNED)
    code = begin + (angles if turned else "") + _NORM.replace("EPS", f"{eps!r}f") + (_ANGLES if turned else "")
    code += _OUT.replace("WRITTEN", _TURNED if turned else _AS_IT_IS)
    if parts == 1:
        return kernel("turned_norm", ("x", "weight", "cos", "sin"), ("out",), code)
    tables = ("cos", "sin", "other_cos", "other_sin") if turned else ()
    name = "turned_pair" if turned else "norm_pair"
    return kernel(name, ("x", "y", "weight", "other_weight", *tables), ("out", "other"), code)


def _pair_works(dtype: mx.Dtype, width: int, angles: mx.Dtype, head: int) -> bool:
    """By MLX's norm in float32, of three queries and two keys that lie among other numbers."""
    whole = mx.random.normal((1, 3, 2 * width + 64), key=mx.random.key(0)).astype(dtype)
    keys = mx.random.normal((2, 2, width), key=mx.random.key(1)).astype(dtype)
    weights = mx.random.normal((2, width), key=mx.random.key(2)).astype(dtype)
    queries = Columns(whole, width, width)
    turns: list[Angles | None] = [None, None]
    if head:
        angle = mx.random.normal((1, 3, width // head, head // 2), key=mx.random.key(3))
        turns = [(mx.cos(one).astype(angles), mx.sin(one).astype(angles)) for one in (angle, angle[:, :2])]
    made = turned_pair(queries, keys, (weights[0], weights[1]), 1e-6, head or 64, turns[0], turns[1])
    good = []
    for got, x, weight, by in zip(made, (queries.apart(), keys), weights, turns, strict=True):
        want = mx.fast.rms_norm(x.astype(mx.float32), weight.astype(mx.float32), 1e-6).reshape(got.shape)
        if by is not None:
            first, second = mx.split(want, 2, axis=-1)
            want = mx.concatenate([first * by[0] - second * by[1], second * by[0] + first * by[1]], axis=-1)
        good.append(close(got, want))
    return all(good)


def _works(dtype: mx.Dtype, width: int, angles: mx.Dtype, head: int) -> bool:
    x = mx.random.normal((2, 2, width), key=mx.random.key(0)).astype(dtype)
    weight = mx.random.normal((width,), key=mx.random.key(1)).astype(dtype)
    angle = mx.random.normal((1, 2, width // head, head // 2), key=mx.random.key(2))
    cos, sin = mx.cos(angle).astype(angles), mx.sin(angle).astype(angles)
    normed = mx.fast.rms_norm(x.astype(mx.float32), weight.astype(mx.float32), 1e-6)
    first, second = mx.split(normed.reshape(2, 2, -1, head), 2, axis=-1)
    want = mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return close(turned_norm(x, weight, 1e-6, cos, sin), want)
