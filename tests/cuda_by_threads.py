"""Runs CUDA kernels of ours without a card: their source as C++, each thread of a block a thread of the machine."""

import ctypes
import re
import subprocess

import mlx.core as mx
import numpy as np

from mlx_ltxw.models.ops import own_cuda

_DEVICE = r"""
#include <barrier>
#include <bit>
#include <cmath>
#include <cstddef>
#include <memory>
#include <thread>
#include <vector>
#define __device__
#define __global__
#define __shared__ static
#define __uint_as_float(x) std::bit_cast<float>(unsigned(x))
#define __float_as_uint(x) std::bit_cast<unsigned>(float(x))
#define rsqrtf(x) (1.0f / sqrtf(x))
struct Place { unsigned x, y, z; };
static thread_local Place threadIdx, blockIdx;
static Place gridDim, blockDim;
static std::barrier<>* all;
static std::vector<std::unique_ptr<std::barrier<>>> warps;
static float lanes[1024];
static void __syncthreads() { all->arrive_and_wait(); }
static float __shfl_xor_sync(unsigned, float value, int step) {
  std::barrier<>& own = *warps[threadIdx.x / 32];
  lanes[threadIdx.x] = value;
  own.arrive_and_wait();
  float other = lanes[threadIdx.x ^ step];
  own.arrive_and_wait();
  return other;
}
"""
_COMPILER = ["g++", "-std=c++20", "-O0", "-w", "-fPIC", "-pthread"]
_HALF = {
    r'asm\("cvt.rn.f16.f32 %0, %1;".*?\);': "bits = std::bit_cast<unsigned short>(_Float16(value));",
    r'asm\("cvt.f32.f16 %0, %1;".*?\);': "value = float(std::bit_cast<_Float16>(bits));",
}
_LAUNCH = """
extern "C" void launch(void** a, unsigned x, unsigned y, unsigned z, unsigned threads) {
  gridDim = {x, y, z}; blockDim = {threads, 1, 1};
  for (unsigned k = 0; k < z; k++) for (unsigned j = 0; j < y; j++) for (unsigned i = 0; i < x; i++) {
    std::barrier<> here(threads);
    all = &here;
    warps.clear();
    for (unsigned w = 0; w < (threads + 31) / 32; w++) warps.push_back(std::make_unique<std::barrier<>>(32));
    std::vector<std::thread> group;
    for (unsigned t = 0; t < threads; t++) group.emplace_back([=] {
      threadIdx = {t, 0, 0}; blockIdx = {i, j, k};
      kernel(ARGUMENTS);
    });
    for (std::thread& one : group) one.join();
  }
}
"""


class Emulated:
    """In place of `own_cuda.Kernel.__call__`.

    Args:
        folder: For what is compiled.
    """

    def __init__(self, folder):
        self.folder, self.count = folder, 0
        (folder / "device.h").write_text(_DEVICE)
        subprocess.run([*_COMPILER, "-x", "c++-header", folder / "device.h"], check=True)  # read once for all

    def __call__(self, kernel, *, inputs, template, grid, threadgroup, output_shapes, output_dtypes):
        text = kernel.text("kernel", [one.dtype for one in inputs], template, output_dtypes)
        for pattern, instead in _HALF.items():
            text = re.sub(pattern, instead, text)
        given = [_bytes(one) for one in inputs]
        made = [np.zeros(shape, f"V{dtype.size}") for shape, dtype in zip(output_shapes, output_dtypes, strict=True)]
        types = [own_cuda._TYPES[one] for one in (*(one.dtype for one in inputs), *output_dtypes)]
        call = ", ".join(f"({name}*) a[{i}]" for i, name in enumerate(types))
        library = self._built('#include "device.h"\n' + text + _LAUNCH.replace("ARGUMENTS", call))
        pointers = (ctypes.c_void_p * len(types))(*(one.ctypes.data for one in (*given, *made)))
        blocks = [-(-whole // part) for whole, part in zip(grid, threadgroup, strict=True)]
        library.launch(pointers, *blocks, threadgroup[0])
        return [_array(one, dtype) for one, dtype in zip(made, output_dtypes, strict=True)]

    def _built(self, text):
        self.count += 1
        source, library = (self.folder / f"kernel{self.count}.{end}" for end in ("cpp", "so"))
        source.write_text(text)
        subprocess.run([*_COMPILER, "-shared", source, "-o", library], check=True)
        return ctypes.CDLL(str(library))


def _bytes(array):
    if array.dtype == mx.bfloat16:
        array = array.view(mx.uint16)
    return np.ascontiguousarray(np.array(array))


def _array(raw, dtype):
    if dtype == mx.bfloat16:
        return mx.array(raw.view(np.uint16)).view(mx.bfloat16)
    return mx.array(raw.view({mx.float32: np.float32, mx.float16: np.float16}[dtype]))
