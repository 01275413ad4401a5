"""Unpacks quantised weights on CUDA, at the speed of the memory.

A thread reads eight codes at once, which all have one scale, and writes eight numbers; each is computed in float32 and
rounded once. `mx.dequantize` stands for the same numbers, takes several times as long (`docs/performance.md`),
and is what every other backend uses.
"""

from __future__ import annotations

import functools

import mlx.core as mx

from mlx_ltxw.models.ops.cuda import compiler
from mlx_ltxw.models.ops.cuda.compiler import Kernel
from mlx_ltxw.models.ops.trial import close, working

CODES = {2: 16, 4: 8, 8: 8}
"""A thread's share, by bits; it divides every size of a group. Numbers of eight are as many bytes as a thread writes at
once: on an H200 a weight of 16384 by 4096 takes 80 us, with 16 of 8 bits each 89."""
_THREADS = 256

_CODES_OF = {"affine": 0, "mxfp8": 1, "mxfp4": 2, "nvfp4": 2}
"""What a code is: a whole number, e4m3, e2m1."""
_SCALES_OF = {"affine": 0, "mxfp8": 1, "mxfp4": 1, "nvfp4": 2}
"""What a scale is: a float (and its group has a bias), e8m0, e4m3."""

_HEADER = """
__device__ inline float of_half(unsigned bits) {
  float16 half;
  half.bits = bits;
  return static_cast<float>(half);
}

// Small floats are halfs with the exponent moved: their subnormals come out right, by one exact product.
__device__ inline float from_e4m3(unsigned code) {
  return of_half(((code & 0x80u) << 8) | ((code & 0x7fu) << 7)) * 256.0f;
}
__device__ inline float from_e2m1(unsigned code) {
  return of_half(((code & 8u) << 12) | ((code & 7u) << 9)) * 16384.0f;
}
__device__ inline float from_e8m0(unsigned code) { return __uint_as_float(code << 23); }

template <int BITS, int CODES> struct alignas(BITS * CODES / 8) Codes { unsigned words[BITS * CODES / 32]; };
template <typename T, int CODES> struct alignas(16) Numbers { T of[CODES]; };
"""

_SOURCE = """
  size_t thread = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  auto group = thread * CODES / GROUP;
  auto codes = reinterpret_cast<const Codes<BITS, CODES>*>(weight)[thread];
  float scale, bias = 0.0f;
  if constexpr (SCALE == 0) {
    scale = static_cast<float>(scales[group]);
    bias = static_cast<float>(biases[group]);
  } else if constexpr (SCALE == 1) {
    scale = from_e8m0(scales[group]);
  } else {
    scale = from_e4m3(scales[group]);
  }
  Numbers<T, CODES> numbers;
  #pragma unroll
  for (int i = 0; i < CODES; ++i) {
    unsigned code = (codes.words[i * BITS / 32] >> (i * BITS % 32)) & ((1u << BITS) - 1);
    float value;
    if constexpr (CODE == 0) value = static_cast<float>(code);
    else if constexpr (CODE == 1) value = from_e4m3(code);
    else value = from_e2m1(code);
    numbers.of[i] = static_cast<T>(fmaf(scale, value, bias));
  }
  reinterpret_cast<Numbers<T, CODES>*>(out)[thread] = numbers;
"""


_NUMBERS = 0xF7F7F7F7
"""Bits of four codes of e4m3 none of which is NaN, which is close to nothing."""


@functools.cache
def _kernel() -> Kernel:
    return compiler.cuda_kernel("unpack_codes", ["weight", "scales", "biases"], ["out"], _SOURCE, _HEADER)


def fits(weight: mx.array, group_size: int, bits: int, mode: str) -> bool:
    """Whether `unpack` takes a packed weight: codes of 2, 4 or 8 bits, and whole groups of threads."""
    codes = weight.size * 32 // bits
    share = CODES.get(bits)
    return share is not None and mode in _CODES_OF and group_size % share == 0 and codes % (share * _THREADS) == 0


def works(group_size: int, bits: int, mode: str, scales: mx.Dtype, dtype: mx.Dtype) -> bool:
    """Whether the kernel does here what `mx.dequantize` does; tried once for each way of packing."""
    return working(_works, group_size, bits, mode, scales, dtype)


def _works(group_size: int, bits: int, mode: str, scales: mx.Dtype, dtype: mx.Dtype) -> bool:
    shape, keys = (64, 512 // group_size), mx.random.split(mx.random.key(0), 3)
    weight = mx.random.randint(0, 2**31 - 1, (64, 16 * bits), key=keys[0]).astype(mx.uint32)
    weight = mx.bitwise_and(weight, mx.array(_NUMBERS, mx.uint32))
    factors, biases = mx.random.normal(shape, key=keys[1]).astype(scales), None
    if mode == "affine":
        biases = mx.random.normal(shape, key=keys[2]).astype(scales)
    else:
        factors = mx.random.randint(50, 56, shape, key=keys[1]).astype(mx.uint8)
    want = mx.dequantize(weight, factors, biases, group_size, bits, mode=mode)
    got = unpack(weight, factors, biases, group_size, bits, mode, dtype)
    return close(got, want.astype(mx.float32))


def unpack(
    weight: mx.array, scales: mx.array, biases: mx.array | None, group_size: int, bits: int, mode: str, dtype: mx.Dtype
) -> mx.array:
    """The numbers that a packed weight stands for.

    Args:
        weight: (out, in * bits / 32) uint32, of `mx.quantize`.
        scales: (out, in / group_size).
        biases: The same, in affine packings.
        group_size, bits, mode: How it is packed; `fits` must say so.
        dtype: Of the result.

    Returns:
        (out, in).
    """
    rows, words = weight.shape
    (out,) = _kernel()(
        inputs=[weight, scales, scales if biases is None else biases],
        template=[
            ("T", dtype), ("BITS", bits), ("CODES", CODES[bits]), ("GROUP", group_size), ("CODE", _CODES_OF[mode]),
            ("SCALE", _SCALES_OF[mode]),
        ],
        grid=(weight.size * 32 // bits // CODES[bits], 1, 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[(rows, words * 32 // bits)],
        output_dtypes=[dtype],
    )  # fmt: skip
    made: mx.array = out
    return made
