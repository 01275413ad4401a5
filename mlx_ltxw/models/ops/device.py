"""What the operations of this folder ask about the device, and nothing else of the networks does."""

from __future__ import annotations

import sys

import mlx.core as mx

from mlx_ltxw.machine import on_cpu


def slow_exponentials() -> bool:
    """Whether the current device is a CPU on which the stock exponential is slow."""
    return sys.platform != "darwin" and on_cpu()


def settle_compile() -> None:
    """Turns `mx.compile` off for the process where MLX computes on the CPU; called by whatever begins a run.

    The CPU backend compiles every fused kernel with the system's C++ compiler at run time, which takes a second each,
    gains nothing here, and fails where there is no compiler. Functions that are compiled already look at the switch
    each time they are called.
    """
    if on_cpu():
        mx.disable_compile()
