"""What the operations of this folder ask about the device, and nothing else of the networks does."""

from __future__ import annotations

import os
import sys

import mlx.core as mx

from mlx_ltxw.machine import on_cpu, this_machine


def backend() -> str:
    """`cpu`, `cuda` or `metal`: where MLX computes now."""
    if on_cpu():
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def slow_exponentials() -> bool:
    """Whether the current device is a CPU on which the stock exponential is slow."""
    return sys.platform != "darwin" and on_cpu()


def greedy_convolutions(dtype: mx.Dtype) -> bool:
    """Whether 2-D convolutions can fail for want of memory: in float32 on CUDA, multiplied as float32.

    There cuDNN chose a way that wanted more than an H200's 139 GB for 203x34 positions of 96 channels, where with TF32
    it wants next to nothing (MLX 0.32.4).
    """
    return dtype == mx.float32 and os.environ.get("MLX_ENABLE_TF32") == "0" and this_machine().backend == "cuda"


def settle_compile() -> None:
    """Turns `mx.compile` off for the process where MLX computes on the CPU; called by whatever begins a run.

    The CPU backend compiles every fused kernel with the system's C++ compiler at run time, which takes a second each,
    gains nothing here, and fails where there is no compiler. Functions that are compiled already look at the switch
    each time they are called.
    """
    if on_cpu():
        mx.disable_compile()
