"""What the kernels share: how tokens are read and written, and how they are made and started."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_ltxw.models.ops import device
from mlx_ltxw.models.ops.cuda import compiler


class RowPair(NamedTuple):
    """A row of a learned table and one of a network's, whose sum is a modulation vector.

    Attributes:
        table: (R, W).
        network: (B, T, N, W).
        at, of: Which rows.
    """

    table: mx.array
    network: mx.array
    at: int
    of: int

    def apart(self) -> tuple[mx.array, mx.array]:
        """Both rows, (1, W) and (B, T, W)."""
        return self.table[self.at : self.at + 1], self.network[:, :, self.of]


Row = mx.array | tuple[mx.array, mx.array] | RowPair
"""One modulation vector (B, 1, W). Or its two summands, a learned table's row (1, W) and a network's (B, T, W), added
inside the kernel that uses them, so that no sum is stored where every token has its own. Or where to find the two, for
kernels of ours, which look there themselves.
"""

LANES = 8
"""Numbers that a thread reads at once: 16 bytes of bf16."""

_HEADER = """
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
template <typename T> struct alignas(16) Eight { T of[8]; };

template <typename T> __device__ inline Eight<T> eight(const T* from) {
  return *reinterpret_cast<const Eight<T>*>(from);
}
template <typename T> __device__ inline void put(T* to, Eight<T> numbers) {
  *reinterpret_cast<Eight<T>*>(to) = numbers;
}

// Of all threads of a block. `parts` is the block's, and another one each time until all threads have met again.
template <int THREADS> __device__ inline float sum_of_all(float value, float* parts) {
  #pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0.0f;
  #pragma unroll
  for (int i = 0; i < THREADS / 32; ++i) value += parts[i];
  return value;
}

// A row's numbers that are a thread's: eight in each of its parts.
template <int PARTS, int THREADS, typename A> __device__ inline void kept(float* row, const A* given) {
  #pragma unroll
  for (int part = 0; part < PARTS; ++part) {
    Eight<A> numbers = eight(given + (part * THREADS + threadIdx.x) * 8);
    #pragma unroll
    for (int i = 0; i < 8; ++i) row[part * 8 + i] = static_cast<float>(numbers.of[i]);
  }
}
// The same of a sum of two rows.
template <int PARTS, int THREADS, typename A, typename B>
__device__ inline void kept(float* row, const A* given, const B* other) {
  float more[8 * PARTS];
  kept<PARTS, THREADS>(row, given);
  kept<PARTS, THREADS>(more, other);
  #pragma unroll
  for (int i = 0; i < 8 * PARTS; ++i) row[i] += more[i];
}
"""


@functools.cache
def kernel(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], source: str, header: str = "") -> Any:
    """A kernel, compiled for each set of constants when it is first started; `header` comes before it."""
    return compiler.cuda_kernel(name, inputs, outputs, source, _HEADER + header)


def start(
    made: Any, arrays: Sequence[mx.array], constants: Sequence[tuple[str, Any]], blocks: int, threads: int,
    like: Sequence[tuple[tuple[int, ...], mx.Dtype]],
) -> list[mx.array]:  # fmt: skip
    """A kernel's results.

    Args:
        made: By `kernel`.
        arrays: Its inputs.
        constants: Names and values that it is compiled for.
        blocks, threads: How many.
        like: Shapes and dtypes of its outputs.
    """
    results: list[mx.array] = made(
        inputs=list(arrays), template=list(constants), grid=(blocks * threads, 1, 1), threadgroup=(threads, 1, 1),
        output_shapes=[shape for shape, _ in like], output_dtypes=[dtype for _, dtype in like],
    )  # fmt: skip
    return results


def summands(row: Row) -> tuple[tuple[mx.array, int], ...]:
    """The arrays that a row is the sum of, and in which of their rows; a kernel cannot look before where it begins."""
    if isinstance(row, mx.array):
        return ((row, 0),)
    first, second, *places = row
    at, of = places or (0, 0)
    return (first, at), (second, of)


def is_own(row: Row, x: mx.array) -> bool:
    """Whether a row is one for each clip of (B, T, W)."""
    return isinstance(row, mx.array) and len(x) > 1 and row.shape == (len(x), 1, x.shape[-1])


def offsets(row: Row, x: mx.array) -> tuple[str, ...]:
    """Where each summand of a row begins in its array, in a kernel that knows its `clip`."""
    return tuple(f"{'clip' if is_own(row, x) else place} * WIDTH" for _, place in summands(row))


def short(places: Sequence[str]) -> str:
    """Offsets in a kernel's name."""
    return "".join(place.split()[0] for place in places)


def is_shared(row: Row, width: int) -> bool:
    """Whether a row is one for all tokens."""
    if isinstance(row, mx.array):
        return row.size == width
    return row[1].size == width if len(row) == 2 else row[1].shape[:2] == (1, 1)


def on_cuda() -> bool:
    """Whether there is a device for these kernels."""
    return device.backend() == "cuda"


def takes_width(width: int) -> bool:
    """Whether rows of so many numbers are such as these kernels read: on CUDA, for whole groups of threads."""
    return on_cuda() and width % 1024 == 0 and width <= 4096


def takes_rows(x: mx.array, *rows: Row) -> bool:
    """Whether tokens (B, T, W) are such as these kernels read, and all of them, or all of a clip, share each row."""
    width = x.shape[-1]
    return takes_width(width) and all(is_shared(row, width) or is_own(row, x) for row in rows)
