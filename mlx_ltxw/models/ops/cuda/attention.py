"""Attention of a small clip's tokens, with the gates of its heads, as one kernel that is simply started.

MLX's own goes through cuDNN, which is faster on the device and takes the host several times as long to start; where the
host is what a forward waits for, that decides. The method is FlashAttention-2's (arXiv:2307.08691): scores are made for
64 queries and 64 keys at a time, in the registers, and never written. Products are of bf16 or float16 with sums in
float32, as cuDNN's; the result is rounded once, behind the gates.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import mlx.core as mx

from mlx_ltxw.models.ops.columns import Projection, aligned, located
from mlx_ltxw.models.ops.cuda import source
from mlx_ltxw.models.ops.cuda.source import LANES, kernel, start
from mlx_ltxw.models.ops.trial import close, working

SCORES, LONGEST = 512 * 1024, 1024
"""Up to how many scores of a head, and how many queries or keys, this kernel is used.

On an H200 cuDNN takes a third of its time on the device (1024 queries and keys, 32 heads of 128: 39 us and 131), but 24
to 35 us of the host's, where this takes 10. A forward at 192x192x97 takes 0.057 s with it and 0.066 without.
"""
_WIDTHS = (64, 128)
_TILE, _THREADS = 64, 128

_HEADER = """
#ifndef EMULATED
__device__ inline unsigned shared_address(const void* at) {
  return static_cast<unsigned>(__cvta_generic_to_shared(at));
}
// Sixteen bytes on their way to the shared memory; zeros where there are none to read.
__device__ inline void fetch(void* to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::
      "r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0));
}
__device__ inline void fetched() { asm volatile("cp.async.commit_group;"); }
// Waits for all but the last `LEFT` groups.
template <int LEFT> __device__ inline void await_all_but() { asm volatile("cp.async.wait_group %0;" :: "n"(LEFT)); }
// Four matrices of 8 by 8, of which each thread gives one row's address.
__device__ inline void matrices(unsigned (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
      : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(shared_address(row)));
}
__device__ inline void matrices_turned(unsigned (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
      : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(shared_address(row)));
}
// sum += a b, of 16 by 16 and 16 by 8.
#define PRODUCT(KIND) \\
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." KIND "." KIND ".f32 " \\
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \\
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]) \\
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
template <bool HALF>
__device__ inline void multiply(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  if constexpr (HALF) PRODUCT("f16");
  else PRODUCT("bf16");
}
#endif
template <typename T> struct alignas(4) Two { T of[2]; };
template <typename T> __device__ inline unsigned packed(float a, float b) {
  union { Two<T> two; unsigned word; } both;
  both.two.of[0] = static_cast<T>(a);
  both.two.of[1] = static_cast<T>(b);
  return both.word;
}
// Where eight numbers of a row lie in a tile, so that eight rows' are in different banks.
template <int D> __device__ inline int place(int row, int eighth) { return (row * (D / 8) + (eighth ^ (row & 7))) * 8; }
template <typename T, int D, int THREADS>
__device__ inline void fetch_tile(T* tile, const T* from, int first, int rows, size_t stride) {
  #pragma unroll 1
  for (int i = threadIdx.x; i < 64 * (D / 8); i += THREADS) {
    int row = i / (D / 8), eighth = i % (D / 8);
    bool there = first + row < rows;
    fetch(tile + place<D>(row, eighth), from + (there ? first + row : 0) * stride + eighth * 8, there);
  }
  fetched();
}
"""

_SOURCE = """
  alignas(16) __shared__ T memory[3 * 64 * D];
  T *own = memory, *key = memory + 64 * D, *value = memory + 128 * D;
  int tokens = q_shape[1], heads = q_shape[2], rows = k_shape[1], context = k_shape[0] == 1 ? 0 : 1;
  int tiles = (tokens + 63) / 64, first = blockIdx.x % tiles * 64, head = blockIdx.x / tiles % heads;
  int batch = blockIdx.x / tiles / heads, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  size_t stride = size_t(heads) * D;
  const T* queries = q + size_t(batch) * tokens * stride + head * D;
  const T* keys = k + size_t(context * batch) * rows * stride + head * D;
  const T* values = v + size_t(context * batch) * rows * V_STRIDE + V_AT + head * D;
  #pragma unroll 1
  for (int i = threadIdx.x; i < 64 * (D / 8); i += THREADS) {
    int row = i / (D / 8), eighth = i % (D / 8);
    bool there = first + row < tokens;
    fetch(own + place<D>(row, eighth), queries + (there ? first + row : 0) * stride + eighth * 8, there);
  }
  fetch_tile<T, D, THREADS>(key, keys, 0, rows, stride);
  fetch_tile<T, D, THREADS>(value, values, 0, rows, V_STRIDE);

  unsigned mine[D / 16][4];
  float sums[D / 8][4], highest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
  #pragma unroll
  for (int i = 0; i < D / 8; ++i)
    #pragma unroll
    for (int j = 0; j < 4; ++j) sums[i][j] = 0.0f;

  for (int at = 0; at < rows; at += 64) {
    await_all_but<1>();
    __syncthreads();
    if (at == 0) {
      #pragma unroll
      for (int step = 0; step < D / 16; ++step)
        matrices(mine[step], own + place<D>(warp * 16 + lane % 16, step * 2 + lane / 16));
    }
    float scores[8][4];
    #pragma unroll
    for (int i = 0; i < 8; ++i)
      #pragma unroll
      for (int j = 0; j < 4; ++j) scores[i][j] = 0.0f;
    #pragma unroll
    for (int step = 0; step < D / 16; ++step)
      #pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        unsigned b[4];
        matrices(b, key + place<D>(pair * 16 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
        multiply<HALF>(scores[2 * pair], mine[step], b[0], b[1]);
        multiply<HALF>(scores[2 * pair + 1], mine[step], b[2], b[3]);
      }
    __syncthreads();
    if (at + 64 < rows) fetch_tile<T, D, THREADS>(key, keys, at + 64, rows, stride);
    else fetched();

    if (at + 64 > rows) {
      #pragma unroll
      for (int i = 0; i < 8; ++i)
        #pragma unroll
        for (int j = 0; j < 4; ++j)
          if (at + i * 8 + lane % 4 * 2 + j % 2 >= rows) scores[i][j] = -INFINITY;
    }
    #pragma unroll
    for (int side = 0; side < 2; ++side) {
      float most = highest[side];
      #pragma unroll
      for (int i = 0; i < 8; ++i) most = fmaxf(most, fmaxf(scores[i][2 * side], scores[i][2 * side + 1]));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
      float less = exp2f((highest[side] - most) * SCALE);
      highest[side] = most;
      total[side] *= less;
      #pragma unroll
      for (int i = 0; i < 8; ++i)
        #pragma unroll
        for (int j = 2 * side; j < 2 * side + 2; ++j) {
          scores[i][j] = exp2f(scores[i][j] * SCALE - most * SCALE);
          total[side] += scores[i][j];
        }
      #pragma unroll
      for (int i = 0; i < D / 8; ++i) {
        sums[i][2 * side] *= less;
        sums[i][2 * side + 1] *= less;
      }
    }
    await_all_but<1>();
    __syncthreads();
    #pragma unroll
    for (int step = 0; step < 4; ++step) {
      unsigned a[4] = {
        packed<T>(scores[2 * step][0], scores[2 * step][1]), packed<T>(scores[2 * step][2], scores[2 * step][3]),
        packed<T>(scores[2 * step + 1][0], scores[2 * step + 1][1]),
        packed<T>(scores[2 * step + 1][2], scores[2 * step + 1][3])};
      #pragma unroll
      for (int pair = 0; pair < D / 16; ++pair) {
        unsigned b[4];
        matrices_turned(b, value + place<D>(step * 16 + lane % 16, pair * 2 + lane / 16));
        multiply<HALF>(sums[2 * pair], a, b[0], b[1]);
        multiply<HALF>(sums[2 * pair + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();
    if (at + 64 < rows) fetch_tile<T, D, THREADS>(value, values, at + 64, rows, V_STRIDE);
    else fetched();
  }
  #pragma unroll
  for (int side = 0; side < 2; ++side) {
    total[side] += __shfl_xor_sync(0xffffffffu, total[side], 1);
    total[side] += __shfl_xor_sync(0xffffffffu, total[side], 2);
    int row = first + warp * 16 + lane / 4 + side * 8;
    if (row >= tokens) continue;
    size_t token = size_t(batch) * tokens + row;
    float factor = 2.0f / (1.0f + expf(-static_cast<float>(gates[token * G_STRIDE + G_AT + head]))) / total[side];
    T* to = out + token * stride + head * D + lane % 4 * 2;
    #pragma unroll
    for (int i = 0; i < D / 8; ++i)
      *reinterpret_cast<unsigned*>(to + i * 8) = packed<T>(sums[i][2 * side] * factor, sums[i][2 * side + 1] * factor);
  }
"""


def takes(queries: mx.array, keys: mx.array, values: Projection, gates: Projection) -> bool:
    """Whether `gated` takes these: on CUDA, few scores, 16-bit numbers of one dtype, one context or one for each."""
    (batch, tokens, _, width), dtype = queries.shape, queries.dtype
    contexts, rows, _, _ = keys.shape
    if not source.on_cuda() or width not in _WIDTHS or max(tokens, rows) > LONGEST or tokens * rows > SCORES:
        return False
    if contexts not in (1, batch) or values.shape[:2] != keys.shape[:2] or not aligned(values, LANES):
        return False
    if dtype not in (mx.bfloat16, mx.float16) or any(x.dtype != dtype for x in (keys, values, gates)):
        return False
    return working(_works, dtype, width)


def gated(queries: mx.array, keys: mx.array, values: Projection, gates: Projection, scale: float) -> mx.array:
    """Attention without a mask, each head of which is multiplied by `2 sigmoid(gate)`.

    Args:
        queries: (B, T, H, D), D 64 or 128, bf16 or float16.
        keys: (C, S, H, D), C is B or 1.
        values: The same, or (C, S, H * D).
        gates: (B, T, H).
        scale: Of the scores.

    Returns:
        (B, T, H, D).
    """
    batch, tokens, heads, width = queries.shape
    (v, v_stride, v_at), (g, g_stride, g_at) = located(values), located(gates)
    constants: list[tuple[str, Any]] = [
        ("T", queries.dtype), ("HALF", queries.dtype == mx.float16), ("D", width), ("THREADS", _THREADS),
        ("V_STRIDE", v_stride), ("V_AT", v_at), ("G_STRIDE", g_stride), ("G_AT", g_at),
    ]  # fmt: skip
    blocks = -(-tokens // _TILE) * heads * batch
    inputs = [queries, keys, v, g]
    (out,) = start(_kernel(scale), inputs, constants, blocks, _THREADS, [(queries.shape, queries.dtype)])
    return out


@functools.cache
def _kernel(scale: float) -> Any:
    """With scores as powers of two."""
    code = _SOURCE.replace("SCALE", f"{scale * math.log2(math.e)!r}f")
    return kernel("gated_attention", ("q", "k", "v", "gates"), ("out",), code, _HEADER)


def _works(dtype: mx.Dtype, width: int) -> bool:
    """By MLX's softmax in float32, of two batches, with tiles that are not full."""
    keys = mx.random.split(mx.random.key(0), 4)
    queries, gates = mx.random.normal((2, 70, 2, width), key=keys[0]), mx.random.normal((2, 70, 2), key=keys[1])
    context = mx.random.normal((2, 2, 150, 2, width), key=keys[2])
    queries, gates, context = (x.astype(dtype) for x in (queries, gates, context))
    got = gated(queries, context[0], context[1], gates, width**-0.5)
    q, k, v = (x.astype(mx.float32).transpose(0, 2, 1, 3) for x in (queries, context[0], context[1]))
    mixed = mx.softmax((q * width**-0.5) @ k.swapaxes(-1, -2), axis=-1) @ v
    return close(got, mixed.transpose(0, 2, 1, 3) * 2 * mx.sigmoid(gates.astype(mx.float32))[..., None])
