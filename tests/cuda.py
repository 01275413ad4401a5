"""Runs CUDA kernels on a CPU: their very source, by a C++ compiler, with a thread of the system for each of theirs."""

import ctypes
import hashlib
import re
import shutil
import subprocess

import mlx.core as mx
import numpy as np

from mlx_ltxw.models.ops.cuda import compiler

COMPILER = shutil.which("g++")

_TYPES = compiler.TYPES
_KINDS = {mx.bfloat16: np.uint16, mx.float16: np.float16, mx.float32: np.float32}
_HALVES = {
    r'asm\("cvt.rn.f16.f32.*?\);': "bits = std::bit_cast<unsigned short>(_Float16(value));",
    r'asm\("cvt.f32.f16.*?\);': "value = float(std::bit_cast<_Float16>(bits));",
}
"""What the two conversions are in C++."""
_SHIM = r"""
#include <barrier>
#include <bit>
#include <cmath>
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#define __device__
#define __shared__ static
#define __uint_as_float(x) std::bit_cast<float>(unsigned(x))
#define __float_as_uint(x) std::bit_cast<unsigned>(float(x))
PRELUDE
struct Index { unsigned x, y, z; };
thread_local Index threadIdx, blockIdx;
Index gridDim, blockDim;
std::barrier<>* all;
float exchanged[1024];
#define EMULATED
void __syncthreads() { all->arrive_and_wait(); }
float __shfl_xor_sync(unsigned, float value, int mask) {
  exchanged[threadIdx.x] = value; __syncthreads();
  float other = exchanged[threadIdx.x ^ mask]; __syncthreads();
  return other;
}
const void* rows_of[1024];
void fetch(void* to, const void* from, bool there) {
  if (there) std::memcpy(to, from, 16);
  else std::memset(to, 0, 16);
}
void fetched() {}
template <int LEFT> void await_all_but() {}
void matrices(unsigned (&to)[4], const void* row, bool turned) {
  rows_of[threadIdx.x] = row; __syncthreads();
  int lane = threadIdx.x % 32, first = threadIdx.x - lane;
  for (int one = 0; one < 4; ++one)
    for (int i = 0; i < 2; ++i) {
      int line = turned ? lane % 4 * 2 + i : lane / 4, column = turned ? lane / 4 : lane % 4 * 2 + i;
      auto bits = static_cast<const uint16_t*>(rows_of[first + one * 8 + line])[column];
      to[one] = i ? to[one] | unsigned(bits) << 16 : bits;
    }
  __syncthreads();
}
void matrices(unsigned (&to)[4], const void* row) { matrices(to, row, false); }
void matrices_turned(unsigned (&to)[4], const void* row) { matrices(to, row, true); }
float half_of(unsigned word, int which) { bfloat16 value; value.bits = word >> 16 * which; return value; }
template <bool HALF> void multiply(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  static unsigned left[1024][4], right[1024][2];
  for (int i = 0; i < 4; ++i) left[threadIdx.x][i] = a[i];
  right[threadIdx.x][0] = b0; right[threadIdx.x][1] = b1; __syncthreads();
  int lane = threadIdx.x % 32, first = threadIdx.x - lane;
  for (int i = 0; i < 4; ++i) {
    int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k)
      sum[i] += half_of(left[first + row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2) *
                half_of(right[first + column * 4 + k % 8 / 2][k / 8], k % 2);
  }
  __syncthreads();
}
float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
"""


def _shim():
    prelude = compiler.PRELUDE
    for pattern, instead in _HALVES.items():
        prelude = re.sub(pattern, instead, prelude)
    return _SHIM.replace("PRELUDE", prelude)


class Emulated:
    """Stands for `compiler.cuda_kernel`; what it compiles lies in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.started = []

    def __call__(self, name, inputs, outputs, source, header):
        def run(*, inputs, template, grid, threadgroup, output_shapes, output_dtypes):
            self.started.append(name)
            return self._run(names, inputs, template, grid, threadgroup, output_shapes, output_dtypes)

        names = inputs, outputs, source, header
        return run

    def _run(self, names, arrays, template, grid, threadgroup, shapes, dtypes):
        inputs, outputs, source, header = names
        pointers = [f"const {_TYPES[a.dtype]}* {name}" for name, a in zip(inputs, arrays, strict=True)]
        pointers += [f"{_TYPES[dtype]}* {name}" for name, dtype in zip(outputs, dtypes, strict=True)]
        constants = "".join(
            f"constexpr int {name} = {int(value)};\n"
            if isinstance(value, int)
            else f"using {name} = {_TYPES[value]};\n"
            for name, value in template
        )
        shaped = [name for name in inputs if f"{name}_shape" in source]
        pointers += [f"const int* {name}_shape" for name in shaped]
        casts = ", ".join(f"({each.rpartition(' ')[0]})given[{i}]" for i, each in enumerate(pointers))
        text = f"""{_shim()}{header}
void kernel({", ".join(pointers)}) {{ {constants} {source} }}
extern "C" void run(void** given, unsigned x, unsigned y, unsigned z, int threads) {{
  gridDim = {{x, y, z}};
  blockDim = {{unsigned(threads), 1, 1}};
  std::barrier<> each(threads);
  all = &each;
  std::vector<std::thread> group;
  for (int thread = 0; thread < threads; ++thread)
    group.emplace_back([=, &each] {{
      threadIdx.x = thread;
      for (unsigned block = 0; block < x * y * z; ++block) {{
        blockIdx = {{block % x, block / x % y, block / x / y}};
        kernel({casts});
        each.arrive_and_wait();
      }}
    }});
  for (auto& thread : group) thread.join();
}}"""
        given = [_bytes(array) for array in arrays]
        made = [np.zeros(shape, _KINDS[dtype]) for shape, dtype in zip(shapes, dtypes, strict=True)]
        sizes = [np.array(arrays[inputs.index(name)].shape, np.int32) for name in shaped]
        everything = [*given, *made, *sizes]
        pointers = (ctypes.c_void_p * len(everything))(*(each.ctypes.data for each in everything))
        assert grid[0] % threadgroup[0] == 0
        self._library(text).run(pointers, grid[0] // threadgroup[0], *grid[1:], threadgroup[0])
        return [
            mx.array(each).view(mx.bfloat16) if dtype == mx.bfloat16 else mx.array(each)
            for each, dtype in zip(made, dtypes, strict=True)
        ]

    def _library(self, text):
        place = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
        if not place.exists():
            place.with_suffix(".cpp").write_text(text)
            command = [COMPILER, "-std=c++20", "-O1", "-w", "-pthread", "-shared", "-fPIC", "-o", place]
            subprocess.run([*command, place.with_suffix(".cpp")], check=True)
        return ctypes.CDLL(str(place))


def _bytes(array):
    """As the kernels get it: in rows, without gaps."""
    array = mx.contiguous(array)
    return np.array(array.view(mx.uint16)) if array.dtype == mx.bfloat16 else np.array(array)
