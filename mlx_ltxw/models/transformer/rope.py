"""Split rotary embeddings over positions in seconds and pixels.

Source: `ltx_core/model/transformer/rope.py` (`generate_freq_grid_np`, `generate_freqs`, `split_freqs_cis`,
`apply_split_rotary_emb`) with `rope_type` "split" and `frequencies_precision` "float64".

Tables are made once for a run, on the host: angles reach 1.6e4 rad, where a GPU's fast fp32
sine is not accurate enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_ltxw.models.ops.columns import Projection, apart
from mlx_ltxw.models.ops.cuda import turns
from mlx_ltxw.models.ops.twins import gradients_wanted, twin

Rope = tuple[mx.array, mx.array]
"""Cosines and sines, each (B, T, H, head_dim / 2)."""


def frequency_grid(width: int, axes: int, theta: float) -> np.ndarray:
    """The angular frequencies of one axis: `theta^u * pi / 2` for u evenly in [0, 1], float64, rounded once to fp32.

    Args:
        width: Full width of the rotated projection (heads x head_dim).
        axes: Position axes that share the width.
        theta: Base of the geometric series.

    Returns:
        (width // (2 * axes),) fp32.
    """
    steps = np.linspace(0.0, 1.0, width // (2 * axes), dtype=np.float64)
    return (np.power(theta, steps) * np.pi / 2).astype(np.float32)


def split_rope(
    positions: np.ndarray,
    width: int,
    heads: int,
    theta: float,
    max_positions: Sequence[float],
    dtype: mx.Dtype = mx.float32,
) -> Rope:
    """Rotation tables for tokens at `positions`.

    Each head owns a band of its own: frequencies run through the heads, lowest in head 0, with the axes interleaved
    fastest. Where the axes do not divide the width, identity rotations fill the front.

    Args:
        positions: (B, axes, T) in the units of `max_positions` (seconds or pixels), interval midpoints.
        width: Full width of the projection.
        heads: Attention heads.
        theta: Base of the frequency series.
        max_positions: One scale an axis; a position of 0 maps to angle factor -1, one of `max` to +1.
        dtype: Of the returned tables; angles themselves are fp32, as in the reference.

    Returns:
        cos, sin: each (B, T, heads, width / heads / 2).
    """
    batch, axes, tokens = positions.shape
    scale = np.asarray(max_positions, dtype=np.float32)[None, :, None]
    fraction = positions.astype(np.float32) / scale * 2 - 1  # (B, axes, T)
    grid = frequency_grid(width, axes, theta)
    angles = fraction.transpose(0, 2, 1)[:, :, None, :] * grid[:, None]  # (B, T, F, axes), fp32
    angles = angles.reshape(batch, tokens, -1).astype(np.float64)
    front = width // 2 - angles.shape[-1]
    angles = np.pad(angles, ((0, 0), (0, 0), (front, 0)))  # angle 0: cos 1, sin 0
    angles = angles.reshape(batch, tokens, heads, -1)
    return mx.array(np.cos(angles).astype(np.float32)).astype(dtype), mx.array(
        np.sin(angles).astype(np.float32)
    ).astype(dtype)


def apply_split_rope(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Rotates the halves of each head against each other, computed in fp32.

    Args:
        x: (B, T, H, D).
        cos, sin: (B, T, H, D / 2), B broadcasts; constants to a gradient.
    """
    rotated: Any = _rotated(x, cos, sin) if gradients_wanted() else _turned(x, cos, sin, _FORWARDS)
    return rotated


def turned_norm(x: mx.array, weight: mx.array, eps: float, cos: mx.array, sin: mx.array) -> mx.array:
    """RMS norm of (B, T, H * D) as a whole with a weight (H * D), then `apply_split_rope` of its heads (B, T, H, D)."""
    made: Any = (_fused_turn if turns.takes(x, cos) else _norm_then_turn)(x, weight, eps, cos, sin)
    return made


def _norm_then_turn(x: mx.array, weight: mx.array, eps: float, cos: mx.array, sin: mx.array) -> mx.array:
    normed = mx.fast.rms_norm(x, weight, eps)
    return apply_split_rope(normed.reshape(*x.shape[:2], cos.shape[2], -1), cos, sin)


_fused_turn = twin(turns.turned_norm, _norm_then_turn)


def turned_pair(
    x: Projection, y: Projection, weights: tuple[mx.array, mx.array], eps: float, head: int, rope: Rope | None,
    other: Rope | None,
) -> list[mx.array]:  # fmt: skip
    """`turned_norm` of queries (B, T, H * D) and keys (C, S, H * D), with the norms' weights, as heads of width
    `head`; where there is no rope, no rotation."""
    fits = turns.takes_both(x, y, rope, other)
    made: list[mx.array] = (_fused_pair if fits else _norms_then_turns)(x, y, weights, eps, head, rope, other)
    return made


def _norms_then_turns(
    x: Projection, y: Projection, weights: tuple[mx.array, mx.array], eps: float, head: int, rope: Rope | None,
    other: Rope | None,
) -> list[mx.array]:  # fmt: skip
    made = []
    for part, weight, by in zip((apart(x), apart(y)), weights, (rope, other), strict=True):
        if by is None:
            made.append(mx.fast.rms_norm(part, weight, eps).reshape(*part.shape[:2], -1, head))
        else:
            made.append(turned_norm(part, weight, eps, *by))
    return made


_fused_pair = twin(turns.turned_pair, _norms_then_turns)


@mx.custom_function
def _rotated(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    return _turned(x, cos, sin, _FORWARDS)


@_rotated.vjp
def _rotated_vjp(
    primals: tuple[mx.array, mx.array, mx.array], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    _, cos, sin = primals
    return turned_back(cotangent, cos, sin), mx.zeros_like(cos), mx.zeros_like(sin)


def turned_back(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Rotates by the same angles the other way: undoes `apply_split_rope`, and is its gradient."""
    return _turned(x, cos, sin, _BACKWARDS)


_FORWARDS = mx.array([[-1.0], [1.0]])
_BACKWARDS = mx.array([[1.0], [-1.0]])


@mx.compile
def _turned(x: mx.array, cos: mx.array, sin: mx.array, signs: mx.array) -> mx.array:
    """The halves are swapped by a view with a negative stride, so that all of it runs as one kernel; concatenating two
    rotated halves took four times as long (4290 tokens, 32 heads of 128, H200)."""
    halves = x.reshape(*x.shape[:-1], 2, -1)  # (B, T, H, 2, D / 2)
    swapped = halves[..., ::-1, :].astype(mx.float32) * signs
    turned = halves.astype(mx.float32) * cos[..., None, :] + swapped * sin[..., None, :]
    return turned.astype(x.dtype).reshape(x.shape)
