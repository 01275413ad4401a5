"""Noise-level embeddings and the modulation they give.

Source: `ltx_core/model/transformer/adaln.py`, `timestep_embedding.py`, `transformer.py:get_ada_values`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_ltxw.models.ops.cuda import elementwise, norms, source
from mlx_ltxw.models.ops.cuda.source import Row
from mlx_ltxw.models.ops.twins import twin

SINUSOID_WIDTH = 256
_HALF = SINUSOID_WIDTH // 2
_EXPONENTS = np.float32(-math.log(10000.0)) * np.arange(_HALF, dtype=np.float32) / np.float32(_HALF)
_FREQUENCIES = np.exp(_EXPONENTS.astype(np.float64)).astype(np.float32)
"""Of the official fp32 exponents, in float64 and rounded once: an error of one unit in the last place here is
multiplied by up to 1000 in the angle, and NumPy's own fp32 `exp` has one in 53 of the 128."""


def sinusoid(timesteps: mx.array) -> mx.array:
    """Cosines, then sines, of 128 geometric frequencies from 1 down to almost 1/10000; fp32.

    Args:
        timesteps: (N,) sigma times its scale.

    Returns:
        (N, 256).
    """
    angles = timesteps.astype(mx.float32)[:, None] * mx.array(_FREQUENCIES)
    return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)


class TimestepEmbedder(nn.Module):
    """Two linears with a SiLU between (keys `linear_1`, `linear_2`)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID_WIDTH, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_2(nn.silu(self.linear_1(x)))


class TimestepEmbedding(nn.Module):
    """Holds the embedder under the checkpoint's name `timestep_embedder`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(dim)

    def __call__(self, timesteps: mx.array, dtype: mx.Dtype) -> mx.array:
        return self.timestep_embedder(sinusoid(timesteps).astype(dtype))


class AdaLayerNormSingle(nn.Module):
    """PixArt-alpha's shared modulation network (https://arxiv.org/abs/2310.00426, section 2.3).

    Args:
        dim: Width of the stream.
        rows: Modulation vectors for each noise level.
    """

    def __init__(self, dim: int, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.emb = TimestepEmbedding(dim)
        self.linear = nn.Linear(dim, rows * dim)

    def __call__(self, timesteps: mx.array, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """Embeds noise levels.

        Args:
            timesteps: (B, T) scaled sigmas, fp32; T is 1 or the token count.
            dtype: bf16 or fp32, of the stream.

        Returns:
            The modulation (B, T, rows, dim) and the embedding before its last SiLU (B, T, dim).
        """
        batch, tokens = timesteps.shape
        embedded = self.emb(timesteps.reshape(-1), dtype)
        modulation = self.linear(nn.silu(embedded))
        return modulation.reshape(batch, tokens, self.rows, -1), embedded.reshape(batch, tokens, -1)


MAIN_ROWS = 9
"""Of a stream's main table: shift, scale and gate of its self-attention, of its feed-forward, of its attention to text.
"""
CROSS_ROWS = 5
"""Of a stream's table of the audio-video attentions: scale and shift where the video reads the audio, scale and shift
where the audio reads the video, and the gate of what this stream reads."""
PROMPT_ROWS = 2
"""Of a stream's table for its text: shift, scale."""


class Modulation(NamedTuple):
    """What one update of a stream is modulated by."""

    shift: Row
    scale: Row
    gate: Row

    @property
    def rows(self) -> tuple[Row, Row]:
        """Scale and shift."""
        return self.scale, self.shift


class StreamModulation(NamedTuple):
    """The rows of a stream's main table, in the checkpoint's order."""

    own: Modulation
    feed_forward: Modulation
    text: Modulation


def stream_modulation(table: mx.array, modulation: mx.array) -> StreamModulation:
    """The main table (9, dim) with the network's modulation (B, T, 9, dim)."""
    rows = modulation_rows(table, modulation, slice(0, MAIN_ROWS))
    return StreamModulation(Modulation(*rows[0:3]), Modulation(*rows[3:6]), Modulation(*rows[6:9]))


def video_reads_audio(table: mx.array, modulation: mx.array) -> tuple[Row, Row]:
    """Scale and shift of either stream where the video reads the audio; (5, dim) and (B, T, 4, dim)."""
    scale, shift = modulation_rows(table, modulation, slice(0, 2))
    return scale, shift


def audio_reads_video(table: mx.array, modulation: mx.array) -> tuple[Row, Row]:
    """Scale and shift of either stream where the audio reads the video."""
    scale, shift = modulation_rows(table, modulation, slice(2, 4))
    return scale, shift


def reading_gate(table: mx.array, gate: mx.array) -> Row:
    """The gate of what a stream reads of the other; (5, dim) and (B, 1, 1, dim)."""
    if len(gate) == 1 and source.takes_width(table.shape[-1]):
        return source.RowPair(table, gate, CROSS_ROWS - 1, 0)
    (row,) = modulation_rows(table[CROSS_ROWS - 1 :], gate, slice(0, 1))
    return row


def modulation_rows(table: mx.array, modulation: mx.array, which: slice) -> list[Row]:
    """Some rows of a table (rows, dim) with those of the modulation (B, T, rows, dim).

    A table is sliced even for a single row, because an index alone would be a gather, a kernel of its own. A sum that
    serves all tokens is made before it is used, unless a kernel of ours adds its rows up by itself.
    """
    if modulation.shape[1] == 1:
        if len(modulation) == 1 and source.takes_width(table.shape[-1]):
            return [source.RowPair(table, modulation, row, row) for row in range(which.start, which.stop)]
        summed = _summed(table[which], modulation[:, 0, which])
        return [summed[:, row : row + 1] for row in range(which.stop - which.start)]
    return [(table[row : row + 1], modulation[:, :, row]) for row in range(which.start, which.stop)]


def modulate(x: mx.array, scale: Row, shift: Row) -> mx.array:
    """`x * (1 + scale) + shift`, computed in fp32 and rounded once; x (B, T, dim)."""
    made: Any = (_fused_modulate if elementwise.takes(x, scale, shift) else _modulate)(x, scale, shift)
    return made


def _modulate(x: mx.array, scale: Row, shift: Row) -> mx.array:
    made: Any = _modulated(x, apart(scale), apart(shift))
    return made


@mx.compile
def _modulated(x: mx.array, scale: Row, shift: Row) -> mx.array:
    return (x.astype(mx.float32) * (1 + whole(scale)) + whole(shift)).astype(x.dtype)


_fused_modulate = twin(elementwise.modulate, _modulate)


def modulated_norm(x: mx.array, scale: Row, shift: Row, eps: float) -> mx.array:
    """`norm(x) * (1 + scale) + shift` by the root mean square of x (B, T, dim), as every part of a block begins."""
    (normed,) = modulated_norms(x, [(scale, shift)], eps)
    return normed


def modulated_norms(x: mx.array, rows: Sequence[tuple[Row, Row]], eps: float) -> list[mx.array]:
    """`modulated_norm` of x (B, T, dim) for each pair of scale and shift."""
    fits = norms.takes(x, *itertools.chain(*rows))
    made: list[mx.array] = (_fused_norms if fits else _norms)(x, rows, eps)
    return made


def _norms(x: mx.array, rows: Sequence[tuple[Row, Row]], eps: float) -> list[mx.array]:
    normed = mx.fast.rms_norm(x, None, eps)
    return [_modulate(normed, scale, shift) for scale, shift in rows]


_fused_norms = twin(norms.modulated, _norms)


def added_norms(
    x: mx.array, update: mx.array, gate: Row, rows: Sequence[tuple[Row, Row]], eps: float
) -> tuple[mx.array, list[mx.array]]:
    """`add_gated` of x (B, T, dim), and `modulated_norms` of that."""
    fits = norms.takes(x, gate, *itertools.chain(*rows))
    made: tuple[mx.array, list[mx.array]] = (_fused_sum if fits else _added_norms)(x, update, gate, rows, eps)
    return made


def _added_norms(
    x: mx.array, update: mx.array, gate: Row, rows: Sequence[tuple[Row, Row]], eps: float
) -> tuple[mx.array, list[mx.array]]:
    after = _add_gated(x, update, gate)
    return after, _norms(after, rows, eps)


_fused_sum = twin(norms.added, _added_norms)


def add_gated(x: mx.array, update: mx.array, gate: Row) -> mx.array:
    """`x + update * gate`, computed in fp32 and rounded once; x (B, T, dim)."""
    made: Any = (_fused_add if elementwise.takes(x, gate) else _add_gated)(x, update, gate)
    return made


def _add_gated(x: mx.array, update: mx.array, gate: Row) -> mx.array:
    made: Any = _added(x, update, apart(gate))
    return made


@mx.compile
def _added(x: mx.array, update: mx.array, gate: Row) -> mx.array:
    return (x.astype(mx.float32) + update.astype(mx.float32) * whole(gate)).astype(x.dtype)


_fused_add = twin(elementwise.add_gated, _add_gated)


@mx.compile
def _summed(table: mx.array, modulation: mx.array) -> mx.array:
    return table.astype(mx.float32) + modulation.astype(mx.float32)


def apart(row: Row) -> mx.array | tuple[mx.array, mx.array]:
    """A row for MLX's kernels: itself, or its summands."""
    if isinstance(row, mx.array):
        return row
    first, second, *places = row
    return source.RowPair(first, second, *places).apart() if places else (first, second)


def whole(row: Row) -> mx.array:
    """The vector itself, fp32."""
    parts = apart(row)
    return parts if isinstance(parts, mx.array) else parts[0].astype(mx.float32) + parts[1].astype(mx.float32)
