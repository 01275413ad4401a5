"""The norm of queries or keys and their rotation, in one kernel."""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx

from mlx_ltxw.models.ops.cuda.source import LANES, kernel, start, takes_rows
from mlx_ltxw.models.ops.trial import close, working

_SOURCE = """
  constexpr int HALF = HEAD / 2;
  __shared__ float sums[32];
  int half = threadIdx.x * 8;
  int at = half / HALF * HEAD + half % HALF;
  size_t row = size_t(blockIdx.x) * WIDTH + at, angle = size_t(blockIdx.x % x_shape[1]) * (WIDTH / 2) + half;
  Eight<T> first = eight(x + row), second = eight(x + row + HALF);
  Eight<R> c = eight(cos + angle), s = eight(sin + angle);
  Eight<W> weight_a = eight(weight + at), weight_b = eight(weight + at + HALF);
  float sum = 0.0f;
  #pragma unroll
  for (int i = 0; i < 8; ++i) {
    float a = static_cast<float>(first.of[i]), b = static_cast<float>(second.of[i]);
    sum += a * a + b * b;
  }
  float factor = rsqrtf(sum_of_all<THREADS>(sum, sums) / WIDTH + EPS);
  #pragma unroll
  for (int i = 0; i < 8; ++i) {
    float a = static_cast<float>(first.of[i]) * factor * static_cast<float>(weight_a.of[i]);
    float b = static_cast<float>(second.of[i]) * factor * static_cast<float>(weight_b.of[i]);
    float cosine = static_cast<float>(c.of[i]), sine = static_cast<float>(s.of[i]);
    first.of[i] = static_cast<T>(a * cosine - b * sine);
    second.of[i] = static_cast<T>(b * cosine + a * sine);
  }
  put(out + row, first);
  put(out + row + HALF, second);
"""


def takes(x: mx.array, cos: mx.array) -> bool:
    """Whether `turned_norm` takes such queries or keys: on CUDA, where all of a batch are turned alike."""
    if not takes_rows(x) or len(cos) != 1:
        return False
    return working(_works, x.dtype, x.shape[-1], cos.dtype, 2 * cos.shape[-1])


def turned_norm(x: mx.array, weight: mx.array, eps: float, cos: mx.array, sin: mx.array) -> mx.array:
    """RMS norm of (B, T, H * D) with a weight (H * D), as heads (B, T, H, D) whose halves are turned.

    Args:
        x: Queries or keys.
        weight: Of the norm.
        eps: Added to the mean square.
        cos, sin: (1, T, H, D / 2).
    """
    batch, (_, tokens, heads, half) = len(x), cos.shape
    width, threads = x.shape[-1], x.shape[-1] // (2 * LANES)
    constants = [
        ("T", x.dtype), ("W", weight.dtype), ("R", cos.dtype), ("WIDTH", width), ("HEAD", 2 * half),
        ("THREADS", threads),
    ]  # fmt: skip
    (out,) = start(
        _kernel(eps),
        [x, weight, cos, sin],
        constants,
        batch * tokens,
        threads,
        [((batch, tokens, heads, 2 * half), x.dtype)],
    )
    return out


@functools.cache
def _kernel(eps: float) -> Any:
    source = _SOURCE.replace("EPS", f"{eps!r}f")
    return kernel("turned_norm", ("x", "weight", "cos", "sin"), ("out",), source)


def _works(dtype: mx.Dtype, width: int, angles: mx.Dtype, head: int) -> bool:
    x = mx.random.normal((2, 2, width), key=mx.random.key(0)).astype(dtype)
    weight = mx.random.normal((width,), key=mx.random.key(1)).astype(dtype)
    angle = mx.random.normal((1, 2, width // head, head // 2), key=mx.random.key(2))
    cos, sin = mx.cos(angle).astype(angles), mx.sin(angle).astype(angles)
    normed = mx.fast.rms_norm(x.astype(mx.float32), weight.astype(mx.float32), 1e-6)
    first, second = mx.split(normed.reshape(2, 2, -1, head), 2, axis=-1)
    want = mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return close(turned_norm(x, weight, 1e-6, cos, sin), want)
