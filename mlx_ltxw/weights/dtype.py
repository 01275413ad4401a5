"""Which dtype a parameter has in memory."""

from __future__ import annotations

import mlx.core as mx

from mlx_ltxw.machine import emulates_bfloat16, on_cpu

NAMED = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}
"""What a user may ask for."""


def dtype_of(name: str | None) -> mx.Dtype:
    """The transformer's dtype of a name of `NAMED`; of None this machine's own.

    That is float16 on M1 and M2, which compute bfloat16 in float32's units: it rounds finer, and a value that it cannot
    hold ends the run with a sentence (`docs/decisions/0010-float16.md`).
    """
    if name is None:
        return mx.float16 if emulates_bfloat16() else default_dtype()
    return NAMED[name]


def name_of(dtype: mx.Dtype) -> str:
    """The name of a dtype of `NAMED`."""
    return next(name for name, one in NAMED.items() if one == dtype)


def outside_transformer(dtype: mx.Dtype) -> mx.Dtype:
    """The dtype of the text path and the autoencoders: float16 is the transformer's alone, for Gemma-3 overflows it."""
    return mx.bfloat16 if dtype == mx.float16 else dtype


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
