"""Several pieces of work of one kind in one kernel on CUDA, where each by itself would be short beside its start."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from mlx_ltxw.models.ops import device
from mlx_ltxw.models.ops.cuda import compiler
from mlx_ltxw.models.ops.cuda.compiler import Kernel
from mlx_ltxw.models.ops.trial import close, working

_THREADS = 256
_GROUPS = 512
"""Groups of threads for one weight."""

_CAST_HEADER = """
template <typename From, typename To> __device__ inline void cast_all(const From* from, To* to, size_t size) {
  size_t step = size_t(gridDim.x) * blockDim.x;
  #pragma unroll 4
  for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step)
    to[i] = static_cast<To>(static_cast<float>(from[i]));
}
"""

_TILE, _RANKS = 64, 32
"""A block's share of a product's width and rank."""

_OUTER = """
  const T *wide = nullptr, *narrow = nullptr;
  float* out = nullptr;
  int width = 0, rank = 0;
  bool across = false;
  switch (blockIdx.y) { CASES }
  int rows = counts[blockIdx.y], column = blockIdx.x * 64, first = blockIdx.z * 32;
  if (column >= width || first >= rank) return;
  __shared__ float wides[16][64];
  __shared__ float narrows[16][32];
  int own = threadIdx.x % 16 * 4, at = threadIdx.x / 16 * 4;
  float sums[4][4] = {};
  for (int begin = 0; begin < rows; begin += 16) {
    #pragma unroll
    for (int i = threadIdx.x; i < 16 * 64; i += 128) {
      int row = begin + i / 64, place = column + i % 64;
      bool there = row < rows && place < width;
      wides[i / 64][i % 64] = there ? static_cast<float>(wide[size_t(row) * width + place]) : 0.0f;
    }
    #pragma unroll
    for (int i = threadIdx.x; i < 16 * 32; i += 128) {
      int row = begin + i / 32, place = first + i % 32;
      bool there = row < rows && place < rank;
      narrows[i / 32][i % 32] = there ? static_cast<float>(narrow[size_t(row) * rank + place]) : 0.0f;
    }
    __syncthreads();
    #pragma unroll
    for (int row = 0; row < 16; ++row) {
      #pragma unroll
      for (int i = 0; i < 4; ++i) {
        #pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] += wides[row][own + i] * narrows[row][at + j];
      }
    }
    __syncthreads();
  }
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    #pragma unroll
    for (int j = 0; j < 4; ++j) {
      int place = column + own + i, number = first + at + j;
      if (place < width && number < rank)
        out[across ? size_t(number) * width + place : size_t(place) * rank + number] = sums[i][j];
    }
  }
"""


class Outer(NamedTuple):
    """A product over rows of two matrices: `narrow^T wide` (rank, width) where it lies across, else `wide^T narrow`
    (width, rank).

    Attributes:
        wide: (N, width).
        narrow: (N, rank).
        across: Which of the two.
    """

    wide: mx.array
    narrow: mx.array
    across: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Of the product."""
        rank, width = self.narrow.shape[1], self.wide.shape[1]
        return (rank, width) if self.across else (width, rank)

    def alone(self) -> mx.array:
        """The product, by MLX; in float32."""
        left, right = (self.narrow, self.wide) if self.across else (self.wide, self.narrow)
        return (left.T @ right).astype(mx.float32)


def cast(arrays: Sequence[mx.array], dtype: mx.Dtype) -> list[mx.array]:
    """Arrays of one dtype in another one."""
    if device.backend() == "cuda" and working(_cast_works, arrays[0].dtype, dtype):
        return _cast(arrays, dtype)
    return [array.astype(dtype) for array in arrays]


def outers(products: Sequence[Outer]) -> list[mx.array]:
    """Products over rows, in float32."""
    if device.backend() == "cuda" and working(_outers_work, products[0].wide.dtype):
        return _outers(products)
    return [product.alone() for product in products]


@functools.cache
def _cast_kernel(count: int) -> Kernel:
    """For so many arrays."""
    names = range(count)
    cases = "".join(f"case {i}: cast_all(from{i}, to{i}, SIZE{i}); break;" for i in names)
    inputs, outputs = tuple(f"from{i}" for i in names), tuple(f"to{i}" for i in names)
    return compiler.cuda_kernel("cast_many", inputs, outputs, f"switch (blockIdx.y) {{ {cases} }}", _CAST_HEADER)


def _cast(arrays: Sequence[mx.array], dtype: mx.Dtype) -> list[mx.array]:
    return _cast_kernel(len(arrays))(
        inputs=list(arrays),
        template=[(f"SIZE{i}", array.size) for i, array in enumerate(arrays)],
        grid=(_GROUPS * _THREADS, len(arrays), 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[array.shape for array in arrays],
        output_dtypes=[dtype] * len(arrays),
    )


@functools.cache
def _outers_kernel(shapes: tuple[tuple[int, int, bool], ...]) -> Kernel:
    """For products of such a width and rank, lying across or not."""
    cases = "".join(
        f"case {i}: wide = wide{i}; narrow = narrow{i}; out = out{i}; width = {width}; rank = {rank}; "
        f"across = {str(across).lower()}; break; "
        for i, (width, rank, across) in enumerate(shapes)
    )
    names = range(len(shapes))
    inputs = (*(f"wide{i}" for i in names), *(f"narrow{i}" for i in names), "counts")
    return compiler.cuda_kernel("outer_many", inputs, tuple(f"out{i}" for i in names), _OUTER.replace("CASES", cases))


def _outers(products: Sequence[Outer]) -> list[mx.array]:
    sizes = [(each.wide.shape[1], each.narrow.shape[1]) for each in products]
    shapes = tuple((*size, each.across) for size, each in zip(sizes, products, strict=True))
    tiles = [max(-(-sizes[i][axis] // tile) for i in range(len(sizes))) for axis, tile in enumerate((_TILE, _RANKS))]
    return _outers_kernel(shapes)(
        inputs=[*(each.wide for each in products), *(each.narrow for each in products),
                mx.array([len(each.wide) for each in products], mx.int32)],
        template=[("T", products[0].wide.dtype)],
        grid=(128 * tiles[0], len(products), tiles[1]),
        threadgroup=(128, 1, 1),
        output_shapes=[each.shape for each in products],
        output_dtypes=[mx.float32] * len(products),
    )  # fmt: skip


def _cast_works(given: mx.Dtype, dtype: mx.Dtype) -> bool:
    arrays = [
        mx.random.normal(shape, key=mx.random.key(i)).astype(given) for i, shape in enumerate([(3, 5), (300, 900)])
    ]
    return all(bool(mx.array_equal(got, x.astype(dtype))) for got, x in zip(_cast(arrays, dtype), arrays, strict=True))


def _outers_work(dtype: mx.Dtype) -> bool:
    """Of sizes that do and do not fill their tiles."""

    def random(*shape: int) -> mx.array:
        return mx.random.normal(shape, key=mx.random.key(shape[1])).astype(dtype)

    sizes = ((37, 130, 40, True), (16, 64, 32, False), (5, 128, 3, True))
    products = [Outer(random(rows, width), random(rows, rank), across) for rows, width, rank, across in sizes]
    want = [Outer(each.wide.astype(mx.float32), each.narrow.astype(mx.float32), each.across) for each in products]
    return all(close(got, each.alone()) for got, each in zip(_outers(products), want, strict=True))
