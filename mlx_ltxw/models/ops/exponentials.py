"""Exponentials for MLX's CPU backend, as powers of two.

There `mx.exp` takes 9 to 14 ns an element, `mx.tanh` and `mx.sigmoid` 10 to 20, `mx.power(2, x)` 3 to 4, and a sum or
product 0.1 (Linux, x86-64, MLX 0.32).
"""

from __future__ import annotations

import math

import mlx.core as mx

_LEAST = -126.0
"""The exponent of the smallest normal fp32 number."""

_POLYNOMIAL = (9.387883474e-4, 9.188611992e-3, 5.527972430e-2, 2.401721925e-1, 6.931422353e-1, 0.99999994)
"""Of 2^f for f in (-1, 0], highest power first: least squares, reweighted towards the least relative error, 1e-7."""


@mx.custom_function
def exp2(x: mx.array) -> mx.array:
    """2 to the power of x, for x <= 0, elementwise in fp32; within 3e-7 of itself, and never below 2^-126."""
    x = mx.maximum(x, _LEAST)
    whole = x.astype(mx.int32)
    rest = x - whole.astype(mx.float32)
    power = _POLYNOMIAL[0] * rest + _POLYNOMIAL[1]
    for coefficient in _POLYNOMIAL[2:]:
        power = power * rest + coefficient
    return (power.view(mx.int32) + mx.left_shift(whole, 23)).view(mx.float32)  # adds to the exponent's bits


@exp2.vjp
def _exp2_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * output * math.log(2)


@mx.custom_function
def sigmoid(x: mx.array) -> mx.array:
    """As `mx.sigmoid`, elementwise."""
    return 1 / (1 + mx.power(mx.array(2.0), -math.log2(math.e) * x))


@sigmoid.vjp
def _sigmoid_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * output * (1 - output)
