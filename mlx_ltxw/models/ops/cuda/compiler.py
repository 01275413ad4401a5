"""CUDA kernels of our own, compiled when they are first used.

`mx.fast.cuda_kernel` puts MLX's headers before every kernel, and its compiler takes some two seconds for each, in every
process anew. These need no header, which takes tenths of a second, and are kept in the user's cache folder. The
compiler is the one that MLX brings.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import mlx.core as mx

from mlx_ltxw.cache_folder import cache_folder
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import write_bytes

_LIBRARIES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
TYPES = {
    mx.float32: "float", mx.bfloat16: "bfloat16", mx.float16: "float16", mx.uint32: "unsigned", mx.int32: "int",
    mx.uint8: "unsigned char",
}  # fmt: skip

PRELUDE = """
struct alignas(2) bfloat16 {
  unsigned short bits;
  bfloat16() = default;
  __device__ explicit bfloat16(float value) {
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    unsigned whole = __float_as_uint(value);
    bool finite = (whole & 0x7f800000u) != 0x7f800000u;
    bits = finite ? (whole + 0x7fffu + (whole >> 16 & 1u)) >> 16 : whole >> 16 | (whole << 9 ? 64u : 0u);
#endif
  }
  __device__ operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};
struct alignas(2) float16 {
  unsigned short bits;
  float16() = default;
  __device__ explicit float16(float value) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value)); }
  __device__ operator float() const {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
  }
};
"""
"""The two short floats, rounded to even."""


def cuda_kernel(
    name: str, inputs: Sequence[str], outputs: Sequence[str], source: str, header: str = ""
) -> Kernel:  # fmt: skip
    """As `mx.fast.cuda_kernel`."""
    return Kernel(name, inputs, outputs, source, header)


class CompileError(Exception):
    """No compiler, or a kernel that it refuses."""


class Kernel:
    """A kernel; called as what `mx.fast.cuda_kernel` gives is.

    Args:
        name: Of the function.
        inputs, outputs: Names of its arguments, in order.
        source: Its body. Types are `float`, `bfloat16`, `float16`, and the template's; `x_shape` has the sizes of an
            input `x`.
        header: Functions that it calls.
    """

    def __init__(
        self, name: str, inputs: Sequence[str], outputs: Sequence[str], source: str, header: str = ""
    ) -> None:  # fmt: skip
        self.name, self.inputs, self.outputs = name, tuple(inputs), tuple(outputs)
        self.source, self.header = source, header
        self._shaped = [number for number, one in enumerate(self.inputs) if f"{one}_shape" in source]
        self._made: dict[Any, tuple[str, bytes]] = {}

    def __call__(
        self, *, inputs: Sequence[mx.array], template: Sequence[tuple[str, Any]], grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int], output_shapes: Sequence[tuple[int, ...]], output_dtypes: Sequence[mx.Dtype],
    ) -> list[mx.array]:  # fmt: skip
        """The outputs.

        Args:
            inputs: As many as there are names.
            template: Names and their values: numbers, or dtypes. `TOGETHER` is how many blocks of threads are to
                have room on a core.
            grid: Threads in all, along each axis.
            threadgroup: Of them, those of one block.
            output_shapes, output_dtypes: Of each output.
        """
        dtypes = tuple(array.dtype for array in inputs)
        shaped = [inputs[number].shape for number in self._shaped]
        key = dtypes, tuple(template), tuple(output_dtypes), tuple(map(len, shaped)), math.prod(threadgroup)
        if key not in self._made:
            name = f"{self.name}_{len(self._made)}"
            self._made[key] = name, compiled(self.text(name, *key))
        name, code = self._made[key]
        made: list[mx.array] = mx.fast.precompiled_cuda_kernel(
            name=name, compiled_source=code, inputs=list(inputs), output_shapes=list(output_shapes),
            output_dtypes=list(output_dtypes), scalars=[size for shape in shaped for size in shape],
            grid=grid, threadgroup=threadgroup, ensure_row_contiguous=True,
        )  # fmt: skip
        return made

    def text(
        self, name: str, dtypes: Sequence[mx.Dtype], template: Sequence[tuple[str, Any]], made: Sequence[mx.Dtype],
        dimensions: Sequence[int], threads: int,
    ) -> str:  # fmt: skip
        """All of the source.

        Args:
            name: Of the function.
            dtypes, made: Of inputs and outputs.
            template: As for the call.
            dimensions: Of each input whose shape is used.
            threads: Of a block, at most.
        """
        arguments = [f"const {TYPES[dtype]}* {one}" for one, dtype in zip(self.inputs, dtypes, strict=True)]
        arguments += [f"{TYPES[dtype]}* {one}" for one, dtype in zip(self.outputs, made, strict=True)]
        shaped = [one for one in self.inputs if f"{one}_shape" in self.source]
        sizes = {one: [f"{one}_size{i}" for i in range(count)] for one, count in zip(shaped, dimensions, strict=True)}
        arguments += [f"int {size}" for several in sizes.values() for size in several]
        shapes = "".join(f"  const int {one}_shape[] = {{{', '.join(each)}}};\n" for one, each in sizes.items())
        constants = "".join(
            f"  using {one} = {TYPES[value]};\n"
            if isinstance(value, mx.Dtype)
            else f"  constexpr int {one} = {int(value)};\n"
            for one, value in template
        )
        together = dict(template).get("TOGETHER", 1)
        head = f'extern "C" __global__ void __launch_bounds__({threads}, {together}) {name}({", ".join(arguments)})'
        return f"{PRELUDE}{self.header}\n{head} {{\n{shapes}{constants}{self.source}\n}}\n"


def compiled(text: str) -> bytes:
    """Machine code for this card, from the cache folder if it is there.

    Raises:
        CompileError: there is no compiler, or it refuses the source.
    """
    architecture, folder = str(mx.device_info()["architecture"]), cache_folder("kernels")
    if folder is None:
        return build(text, architecture)
    made_of = json.dumps([text, architecture, _version()])
    path = folder / f"{hashlib.sha256(made_of.encode()).hexdigest()}.cubin"
    with suppress(OSError):
        digest, code = _apart(path.read_bytes())
        if hashlib.sha256(code).digest() == digest:
            return code
    code = build(text, architecture)
    with suppress(OSError, UserError):  # a full disk is no reason to stop a run
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(path, hashlib.sha256(code).digest() + code)
    return code


def _apart(data: bytes) -> tuple[bytes, bytes]:
    """What a file holds: the digest of its code, and the code."""
    return data[:32], data[32:]


def _version() -> list[int]:
    """The compiler's."""
    library, parts = _library(), [ctypes.c_int(), ctypes.c_int()]
    _check(library, library.nvrtcVersion(*map(ctypes.byref, parts)))
    return [part.value for part in parts]


def build(text: str, architecture: str) -> bytes:
    """Machine code (cubin) for an architecture, such as `sm_90`; errors as for `compiled`."""
    library = _library()
    program = ctypes.c_void_p()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None))
    try:
        options = (ctypes.c_char_p * 2)(f"--gpu-architecture={architecture}".encode(), b"--std=c++17")
        if library.nvrtcCompileProgram(program, len(options), options):
            said = _bytes(library, program, "ProgramLog").decode(errors="replace")
            raise CompileError(re.sub(r"\0+$", "", said))
        return _bytes(library, program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(library: Any, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _check(library: Any, code: int) -> None:
    if code:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise CompileError(library.nvrtcGetErrorString(code).decode())


@functools.cache
def _library() -> Any:
    """NVRTC, which MLX for CUDA has loaded."""
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise CompileError(f"none of {', '.join(_LIBRARIES)} is there")
