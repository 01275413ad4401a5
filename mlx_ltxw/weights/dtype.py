"""Which dtype a parameter has in memory."""

from __future__ import annotations

import mlx.core as mx

from mlx_ltxw.machine import on_cpu


def default_dtype() -> mx.Dtype:
    """bfloat16 on a GPU; float32 on the CPU, whose bfloat16 matrix products are slow and less exact."""
    return mx.float32 if on_cpu() else mx.bfloat16


def stays_float32(component: str, name: str) -> bool:
    """The vocoder (bfloat16 worsens its spectra by 40 % and more) and the transformer's scale-shift tables."""
    return component == "vocoder" or "scale_shift_table" in name.rpartition(".")[2]


def memory_dtype(component: str, name: str, stored: mx.Dtype, dtype: mx.Dtype) -> mx.Dtype:
    """The dtype in which a parameter is computed.

    Args:
        component: Its network.
        name: Its path in the network.
        stored: Its dtype on disk; integers (packed weights, shared exponents) stay what they are.
        dtype: The network's.
    """
    if not mx.issubdtype(stored, mx.floating):
        return stored
    return mx.float32 if stays_float32(component, name) else dtype
