"""Norms on CUDA, each with what comes before and after it in one kernel.

A block has 22 norms, each between elementwise operations of one input each: what they cost is reading and writing the
tokens, and at a few hundred tokens the start of a kernel (`docs/performance.md`). Here a row is read once, kept in the
registers of one group of threads, and written once; sums are float32 and each result is rounded once, where separate
kernels round the norm too.
"""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx

from mlx_ltxw.models.ops import device
from mlx_ltxw.models.ops.own_cuda import Kernel
from mlx_ltxw.models.ops.trial import close, working

_LANES = 8
"""Numbers that a thread reads at once: 16 bytes of bf16."""

EIGHT = """
template <typename T> struct alignas(16) Eight { T of[8]; };
"""
"""In a kernel: numbers that are read at once."""

_HEADER = (
    EIGHT
    + """
template <int THREADS> __device__ inline float sum_of_all(float value) {
  __shared__ float parts[32];
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0.0f;
  for (int i = 0; i < THREADS / 32; ++i) value += parts[i];
  return value;
}
"""
)

_MODULATED = """
  constexpr int PARTS = WIDTH / (8 * THREADS);
  size_t row = (size_t(blockIdx.y) * gridDim.x + blockIdx.x) * WIDTH;
  size_t rows = SHARED ? 0 : size_t(blockIdx.y) * WIDTH;
  float own[PARTS * 8], sum = 0.0f;
  #pragma unroll
  for (int part = 0; part < PARTS; ++part) {
    int at = (part * THREADS + threadIdx.x) * 8;
    Eight<T> tokens = *reinterpret_cast<const Eight<T>*>(x + row + at);
    #pragma unroll
    for (int i = 0; i < 8; ++i) {
      float value = static_cast<float>(tokens.of[i]);
      own[part * 8 + i] = value;
      sum += value * value;
    }
  }
  float factor = rsqrtf(sum_of_all<THREADS>(sum) / WIDTH + EPS);
  #pragma unroll
  for (int part = 0; part < PARTS; ++part) {
    int at = (part * THREADS + threadIdx.x) * 8;
    Eight<float> scales = *reinterpret_cast<const Eight<float>*>(scale + rows + at);
    Eight<float> shifts = *reinterpret_cast<const Eight<float>*>(shift + rows + at);
    Eight<T> result;
    #pragma unroll
    for (int i = 0; i < 8; ++i)
      result.of[i] = static_cast<T>(own[part * 8 + i] * factor * (1.0f + scales.of[i]) + shifts.of[i]);
    *reinterpret_cast<Eight<T>*>(out + row + at) = result;
  }
"""

_TURNED = """
  constexpr int HALF = HEAD / 2;
  size_t row = (size_t(blockIdx.y) * gridDim.x + blockIdx.x) * WIDTH;
  int half = threadIdx.x * 8;
  int at = half / HALF * HEAD + half % HALF;
  Eight<T> first = *reinterpret_cast<const Eight<T>*>(x + row + at);
  Eight<T> second = *reinterpret_cast<const Eight<T>*>(x + row + at + HALF);
  float sum = 0.0f;
  #pragma unroll
  for (int i = 0; i < 8; ++i) {
    float a = static_cast<float>(first.of[i]), b = static_cast<float>(second.of[i]);
    sum += a * a + b * b;
  }
  float factor = rsqrtf(sum_of_all<THREADS>(sum) / WIDTH + EPS);
  Eight<W> weight_a = *reinterpret_cast<const Eight<W>*>(weight + at);
  Eight<W> weight_b = *reinterpret_cast<const Eight<W>*>(weight + at + HALF);
  size_t angle = size_t(blockIdx.x) * (WIDTH / 2) + half;
  Eight<R> c = *reinterpret_cast<const Eight<R>*>(cos + angle);
  Eight<R> s = *reinterpret_cast<const Eight<R>*>(sin + angle);
  #pragma unroll
  for (int i = 0; i < 8; ++i) {
    float a = static_cast<float>(first.of[i]) * factor * static_cast<float>(weight_a.of[i]);
    float b = static_cast<float>(second.of[i]) * factor * static_cast<float>(weight_b.of[i]);
    float cosine = static_cast<float>(c.of[i]), sine = static_cast<float>(s.of[i]);
    first.of[i] = static_cast<T>(a * cosine - b * sine);
    second.of[i] = static_cast<T>(b * cosine + a * sine);
  }
  *reinterpret_cast<Eight<T>*>(out + row + at) = first;
  *reinterpret_cast<Eight<T>*>(out + row + at + HALF) = second;
"""


@functools.cache
def _kernel(name: str, inputs: tuple[str, ...], source: str, eps: float) -> Kernel:
    return Kernel(name, inputs, ("out",), source.replace("EPS", f"{eps!r}f"), _HEADER)


def takes_modulated(x: mx.array, *rows: Any) -> bool:
    """Whether `modulated_norm` takes such tokens and rows: on CUDA, where all tokens of a clip share theirs."""
    return is_fitting(x) and fits_rows(x, *rows) and working(_modulated_works, x.dtype, x.shape[-1], _is_one(rows[0]))


def takes_turned(x: mx.array, cos: mx.array) -> bool:
    """Whether `turned_norm` takes such queries or keys: on CUDA, where all of a batch are turned alike."""
    if not is_fitting(x) or len(cos) != 1:
        return False
    return working(_turned_works, x.dtype, x.shape[-1], cos.dtype, 2 * cos.shape[-1])


def is_fitting(x: mx.array) -> bool:
    """Whether the kernels, here and in `fused_back_cuda.py`, have a form for such tokens (B, T, W)."""
    width = x.shape[-1]
    return device.backend() == "cuda" and x.ndim == 3 and width % 1024 == 0 and width <= 8192


def fits_rows(x: mx.array, *rows: Any) -> bool:
    """Whether they are one each, (1, 1, W), or one each a clip, (B, 1, W)."""
    shapes = {row.shape if isinstance(row, mx.array) else () for row in rows}
    return shapes in ({(1, 1, x.shape[-1])}, {(len(x), 1, x.shape[-1])})


def _is_one(row: mx.array) -> int:
    return int(len(row) == 1)


def modulated_norm(x: mx.array, scale: mx.array, shift: mx.array, eps: float) -> mx.array:
    """`norm(x) * (1 + scale) + shift` of (B, T, W), with rows (1, 1, W) or (B, 1, W) in float32."""
    batch, tokens, width = x.shape
    threads = min(256, width // _LANES)
    (out,) = _kernel("modulated_norm", ("x", "scale", "shift"), _MODULATED, eps)(
        inputs=[x, scale, shift],
        template=[("T", x.dtype), ("WIDTH", width), ("THREADS", threads), ("SHARED", _is_one(scale))],
        grid=(tokens * threads, batch, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


def turned_norm(x: mx.array, weight: mx.array, cos: mx.array, sin: mx.array, eps: float) -> mx.array:
    """RMS norm of (B, T, H * D) with a weight (H * D), as heads (B, T, H, D) whose halves are turned.

    Args:
        x: Queries or keys.
        weight: Of the norm.
        cos, sin: (1, T, H, D / 2).
        eps: Added to the mean square.
    """
    batch, (_, tokens, heads, half) = len(x), cos.shape
    width, threads = x.shape[-1], x.shape[-1] // (2 * _LANES)
    (out,) = _kernel("turned_norm", ("x", "weight", "cos", "sin"), _TURNED, eps)(
        inputs=[x, weight, cos, sin],
        template=[
            ("T", x.dtype), ("W", weight.dtype), ("R", cos.dtype), ("WIDTH", width), ("HEAD", 2 * half),
            ("THREADS", threads),
        ],
        grid=(tokens * threads, batch, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[(batch, tokens, heads, 2 * half)],
        output_dtypes=[x.dtype],
    )  # fmt: skip
    return out


def _modulated_works(dtype: mx.Dtype, width: int, shared: int) -> bool:
    """By a formula in float32, of two clips of two tokens."""
    x = mx.random.normal((2, 2, width), key=mx.random.key(2)).astype(dtype)
    scale, shift = (mx.random.normal((1 if shared else 2, 1, width), key=mx.random.key(i)) for i in range(2))
    return close(modulated_norm(x, scale, shift, 1e-6), mx.fast.rms_norm(x.astype(mx.float32), None, 1e-6)
                 * (1 + scale) + shift)  # fmt: skip


def _turned_works(dtype: mx.Dtype, width: int, angles: mx.Dtype, head: int) -> bool:
    x = mx.random.normal((2, 2, width), key=mx.random.key(0)).astype(dtype)
    weight = mx.random.normal((width,), key=mx.random.key(1)).astype(dtype)
    angle = mx.random.normal((1, 2, width // head, head // 2), key=mx.random.key(2))
    cos, sin = mx.cos(angle).astype(angles), mx.sin(angle).astype(angles)
    normed = mx.fast.rms_norm(x.astype(mx.float32), weight.astype(mx.float32), 1e-6)
    first, second = mx.split(normed.reshape(2, 2, -1, head), 2, axis=-1)
    want = mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return close(turned_norm(x, weight, cos, sin, 1e-6), want)
