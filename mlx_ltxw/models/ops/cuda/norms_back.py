"""Gradients of norms on CUDA, each with what comes before and after it in one kernel; as `norms.py` and `turns.py`
for the way there.

A training step waits for the host, which starts some 350 kernels a block (`docs/performance.md`).
"""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx

from mlx_ltxw.models.ops.cuda.source import kernel, takes_width
from mlx_ltxw.models.ops.trial import close, working

_HEADER = """
template <int THREADS> __device__ inline void sums_of_all(float& first, float& second) {
  __shared__ float parts[2][32];
  for (int step = 16; step > 0; step /= 2) {
    first += __shfl_xor_sync(0xffffffffu, first, step);
    second += __shfl_xor_sync(0xffffffffu, second, step);
  }
  if (threadIdx.x % 32 == 0) {
    parts[0][threadIdx.x / 32] = first;
    parts[1][threadIdx.x / 32] = second;
  }
  __syncthreads();
  first = second = 0.0f;
  for (int i = 0; i < THREADS / 32; ++i) {
    first += parts[0][i];
    second += parts[1][i];
  }
}
"""

_MODULATED = """
  constexpr int PARTS = WIDTH / (8 * THREADS);
  size_t row = (size_t(blockIdx.y) * gridDim.x + blockIdx.x) * WIDTH;
  size_t batch = size_t(blockIdx.y) * WIDTH;
  float own[PARTS * 8], slope[PARTS * 8], squares = 0.0f, along = 0.0f;
  #pragma unroll
  for (int part = 0; part < PARTS; ++part) {
    int at = (part * THREADS + threadIdx.x) * 8;
    Eight<T> tokens = *reinterpret_cast<const Eight<T>*>(x + row + at);
    Eight<T> cotangents = *reinterpret_cast<const Eight<T>*>(cotangent + row + at);
    Eight<float> scales = *reinterpret_cast<const Eight<float>*>(scale + batch + at);
    #pragma unroll
    for (int i = 0; i < 8; ++i) {
      float value = static_cast<float>(tokens.of[i]);
      float stretched = static_cast<float>(cotangents.of[i]) * (1.0f + scales.of[i]);
      own[part * 8 + i] = value;
      slope[part * 8 + i] = stretched;
      squares += value * value;
      along += value * stretched;
    }
  }
  sums_of_all<THREADS>(squares, along);
  float factor = rsqrtf(squares / WIDTH + EPS);
  float less = factor * factor * factor * along / WIDTH;
  #pragma unroll
  for (int part = 0; part < PARTS; ++part) {
    int at = (part * THREADS + threadIdx.x) * 8;
    Eight<T> sums = *reinterpret_cast<const Eight<T>*>(onto + row + at);
    Eight<T> result;
    #pragma unroll
    for (int i = 0; i < 8; ++i)
      result.of[i] = static_cast<T>(
          static_cast<float>(sums.of[i]) + factor * slope[part * 8 + i] - less * own[part * 8 + i]);
    *reinterpret_cast<Eight<T>*>(out + row + at) = result;
  }
"""

_TURNED = """
  constexpr int HALF = HEAD / 2;
  size_t row = (size_t(blockIdx.y) * gridDim.x + blockIdx.x) * WIDTH;
  int half = threadIdx.x * 8;
  int head = half / HALF, inside = half % HALF;
  int at = head * HEAD + inside;
  size_t apart = ((size_t(blockIdx.y) * (WIDTH / HEAD) + head) * gridDim.x + blockIdx.x) * HEAD + inside;
  Eight<T> first = *reinterpret_cast<const Eight<T>*>(x + row + at);
  Eight<T> second = *reinterpret_cast<const Eight<T>*>(x + row + at + HALF);
  Eight<T> slope_a = *reinterpret_cast<const Eight<T>*>(cotangent + apart);
  Eight<T> slope_b = *reinterpret_cast<const Eight<T>*>(cotangent + apart + HALF);
  Eight<W> weight_a = *reinterpret_cast<const Eight<W>*>(weight + at);
  Eight<W> weight_b = *reinterpret_cast<const Eight<W>*>(weight + at + HALF);
  float own[16], slope[16], squares = 0.0f, along = 0.0f;
  size_t angle = size_t(blockIdx.x) * (WIDTH / 2) + half;
  #pragma unroll
  for (int i = 0; i < 8; ++i) {
    float a = static_cast<float>(slope_a.of[i]), b = static_cast<float>(slope_b.of[i]);
    if (ROTATED) {
      float cosine = static_cast<float>(cos[angle + i]), sine = static_cast<float>(sin[angle + i]);
      float turned = a * cosine + b * sine;
      b = b * cosine - a * sine;
      a = turned;
    }
    own[i] = static_cast<float>(first.of[i]);
    own[8 + i] = static_cast<float>(second.of[i]);
    slope[i] = a * static_cast<float>(weight_a.of[i]);
    slope[8 + i] = b * static_cast<float>(weight_b.of[i]);
    squares += own[i] * own[i] + own[8 + i] * own[8 + i];
    along += own[i] * slope[i] + own[8 + i] * slope[8 + i];
  }
  sums_of_all<THREADS>(squares, along);
  float factor = rsqrtf(squares / WIDTH + EPS);
  float less = factor * factor * factor * along / WIDTH;
  #pragma unroll
  for (int i = 0; i < 8; ++i) {
    first.of[i] = static_cast<T>(factor * slope[i] - less * own[i]);
    second.of[i] = static_cast<T>(factor * slope[8 + i] - less * own[8 + i]);
  }
  *reinterpret_cast<Eight<T>*>(out + row + at) = first;
  *reinterpret_cast<Eight<T>*>(out + row + at + HALF) = second;
"""


@functools.cache
def _kernel(name: str, inputs: tuple[str, ...], source: str, eps: float) -> Any:
    return kernel(name, inputs, ("out",), source.replace("EPS", f"{eps!r}f"), _HEADER)


def takes_modulated(x: mx.array, scale: Any) -> bool:
    """Whether `modulated_back` takes such tokens (B, T, W) and rows, (B, 1, W)."""
    one_each = isinstance(scale, mx.array) and scale.shape == (len(x), 1, x.shape[-1])
    return takes_width(x.shape[-1]) and one_each and working(_modulated_works, x.dtype, x.shape[-1])


def takes_turned(x: mx.array, weight: mx.array, head: int, rope: tuple[mx.array, mx.array] | None) -> bool:
    """Whether `turned_back` takes queries or keys (B, T, H * D), a norm's weight, the width of a head and rotations."""
    if not takes_width(x.shape[-1]) or head % 16 or (rope is not None and len(rope[0]) != 1):
        return False
    angles = None if rope is None else rope[0].dtype
    return working(_turned_works, x.dtype, weight.dtype, x.shape[-1], angles, head)


def modulated_back(x: mx.array, scale: mx.array, eps: float, cotangent: mx.array, onto: mx.array) -> mx.array:
    """`onto` and the gradient of `norm(x) * (1 + scale) + shift` with respect to `x`, all (B, T, W).

    Args:
        x: Tokens.
        scale: (B, 1, W) in float32.
        eps: Added to the mean square.
        cotangent: Of the result.
        onto: What to add it to.
    """
    batch, tokens, width = x.shape
    threads = min(256, width // 8)
    (out,) = _kernel("modulated_norm_back", ("x", "scale", "cotangent", "onto"), _MODULATED, eps)(
        inputs=[x, scale, cotangent, onto],
        template=[("T", x.dtype), ("WIDTH", width), ("THREADS", threads)],
        grid=(tokens * threads, batch, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


def turned_back(
    x: mx.array, weight: mx.array, eps: float, rope: tuple[mx.array, mx.array] | None, cotangent: mx.array
) -> mx.array:
    """The gradient, with respect to `x` (B, T, H * D), of its norm as a whole and the rotation of its heads.

    Args:
        x: Queries or keys.
        weight: Of the norm, (H * D).
        eps: Added to the mean square.
        rope: Cosines and sines (1, T, H, D / 2) each; None for no rotation.
        cotangent: (B, H, T, D).
    """
    batch, tokens, width = x.shape
    threads = width // 16
    cos, sin = rope or (weight, weight)  # of the latter nothing is read
    (out,) = _kernel("turned_norm_back", ("x", "weight", "cos", "sin", "cotangent"), _TURNED, eps)(
        inputs=[x, weight, cos, sin, cotangent],
        template=[
            ("T", x.dtype), ("W", weight.dtype), ("WIDTH", width), ("HEAD", cotangent.shape[-1]),
            ("THREADS", threads), ("ROTATED", int(rope is not None)),
        ],
        grid=(tokens * threads, batch, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )  # fmt: skip
    return out


def _unnormed(x: mx.array, cotangent: mx.array) -> mx.array:
    """By the formula, in float32."""
    factor = mx.rsqrt(mx.mean(x * x, axis=-1, keepdims=True) + 1e-6)
    return factor * cotangent - factor**3 * x * mx.mean(x * cotangent, axis=-1, keepdims=True)


def _modulated_works(dtype: mx.Dtype, width: int) -> bool:
    """Of two clips of three tokens."""
    x, cotangent, onto = (mx.random.normal((2, 3, width), key=mx.random.key(i)).astype(dtype) for i in range(3))
    scale = mx.random.normal((2, 1, width), key=mx.random.key(3))
    got = modulated_back(x, scale, 1e-6, cotangent, onto)
    return close(got, onto + _unnormed(x.astype(mx.float32), cotangent * (1 + scale)))


def _turned_works(dtype: mx.Dtype, weights: mx.Dtype, width: int, angles: mx.Dtype | None, head: int) -> bool:
    heads = width // head
    x = mx.random.normal((2, 3, width), key=mx.random.key(0)).astype(dtype)
    cotangent = mx.random.normal((2, heads, 3, head), key=mx.random.key(1)).astype(dtype)
    weight = mx.random.normal((width,), key=mx.random.key(2)).astype(weights)
    slope, rope = cotangent.astype(mx.float32).transpose(0, 2, 1, 3), None
    if angles is not None:
        angle = mx.random.normal((1, 3, heads, head // 2), key=mx.random.key(3))
        rope = mx.cos(angle).astype(angles), mx.sin(angle).astype(angles)
        first, second = mx.split(slope, 2, axis=-1)
        cos, sin = rope
        slope = mx.concatenate([first * cos + second * sin, second * cos - first * sin], axis=-1)
    want = _unnormed(x.astype(mx.float32), slope.reshape(x.shape) * weight)
    return close(turned_back(x, weight, 1e-6, rope, cotangent), want)
