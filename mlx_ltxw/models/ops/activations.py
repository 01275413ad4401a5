"""Elementwise activations, computed in fp32 and rounded once."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import mlx.core as mx

from mlx_ltxw.models.ops import device
from mlx_ltxw.models.ops.cuda import elementwise
from mlx_ltxw.models.ops.exponentials import sigmoid
from mlx_ltxw.models.ops.twins import twin

_SINE = (3.14159263, -5.16770949, 2.55007173, -0.59827557, 0.07765671)
"""sin(pi z) / z as a polynomial in z^2 on |z| <= 1/2; largest error of the sine 1.4e-8 (Chebyshev fit)."""


def gelu_tanh(x: mx.array) -> mx.array:
    """The tanh approximation of gelu, as PyTorch computes it for bf16."""
    if device.slow_exponentials():
        return _gelu_by_sigmoid(x)
    made: Any = (_fused_gelu if elementwise.takes_gelu(x) else _gelu_by_tanh)(x)
    return made


@mx.compile
def _gelu_by_tanh(x: mx.array) -> mx.array:
    y = x.astype(mx.float32)
    return (0.5 * y * (1 + mx.tanh(_gelu_inner(y)))).astype(x.dtype)


_fused_gelu = twin(elementwise.gelu, _gelu_by_tanh)


def _gelu_by_sigmoid(x: mx.array) -> mx.array:
    """The same number: `1 + tanh(z) = 2 sigmoid(2 z)`."""
    y = x.astype(mx.float32)
    gate: Any = sigmoid(2 * _gelu_inner(y))
    return (y * gate).astype(x.dtype)


def _gelu_inner(y: mx.array) -> mx.array:
    return math.sqrt(2 / math.pi) * (y + 0.044715 * y * y * y)


def snake(x: mx.array, alpha: mx.array, scale: mx.array) -> mx.array:
    """`x + scale sin(alpha x)^2` for (B, L, C) and numbers (C,), all fp32."""
    return (_snake_by_polynomial if device.on_cpu() else _snake_by_sine)(x, alpha, scale)


@partial(mx.compile, shapeless=True)
def _snake_by_sine(x: mx.array, alpha: mx.array, scale: mx.array) -> mx.array:
    return x + scale * mx.square(mx.sin(x * alpha))


def _snake_by_polynomial(x: mx.array, alpha: mx.array, scale: mx.array) -> mx.array:
    """MLX's sine takes some 15 ns a sample on x86, more than all else; this takes a quarter of it."""
    z = x * (alpha * (1 / math.pi))
    z = z - mx.round(z)  # the squared sine has the period 1 in z
    square = z * z
    sine = mx.array(_SINE[-1], mx.float32)
    for coefficient in reversed(_SINE[:-1]):
        sine = sine * square + coefficient
    return x + scale * mx.square(sine * z)
