"""The gradient of heads' gates, of a gated attention's result: what goes on to the attention, and to the gates."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_ltxw.models.ops.cuda.compiler import TYPES
from mlx_ltxw.models.ops.cuda.source import kernel, on_cuda, start
from mlx_ltxw.models.ops.trial import close, working

_THREADS = 128
_SOURCE = """
  int tokens = cotangent_shape[1], heads = cotangent_shape[2];
  int count = cotangent_shape[0] * tokens * heads;
  int asked = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  int one = asked < count ? asked : count - 1;  // all threads of a block go through the sum
  int head = one % heads, token = one / heads % tokens, clip = one / heads / tokens;
  size_t from = size_t(one) * D, to = ((size_t(clip) * heads + head) * tokens + token) * D;
  float gate = 2.0f / (1.0f + expf(-static_cast<float>(logits[one]))), sum = 0.0f;
  #pragma unroll
  for (int i = lane; i < D; i += 32) {
    float slope = static_cast<float>(cotangent[from + i]);
    sum += slope * static_cast<float>(out[to + i]);
    if (asked < count) mixed[to + i] = static_cast<T>(slope * gate);
  }
  #pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (asked < count && lane == 0) {
    means[to / D] = static_cast<T>(gate * sum);
    slopes[one] = static_cast<T>(gate * sum * (1.0f - 0.5f * gate));
  }
"""


class GateGradients(NamedTuple):
    """Cotangents, given that of a gated attention's result.

    Attributes:
        mixed: Of the result before its gates, (B, H, T, D).
        means: Of each token's result with itself, summed over a head, (B, H, T, 1).
        logits: Of the gates' logits, (B, T, H).
    """

    mixed: mx.array
    means: mx.array
    logits: mx.array


def takes(cotangent: mx.array) -> bool:
    """Whether `gradients` takes heads (B, T, H, D): on CUDA."""
    dtype, width = cotangent.dtype, cotangent.shape[-1]
    return on_cuda() and dtype in TYPES and width % 32 == 0 and working(_works, dtype, width)


def gradients(cotangent: mx.array, out: mx.array, logits: mx.array) -> GateGradients:
    """Those of `out * 2 sigmoid(logits)`.

    Args:
        cotangent: (B, T, H, D).
        out: Before the gates, (B, H, T, D).
        logits: (B, T, H).
    """
    (batch, tokens, heads, width), dtype = cotangent.shape, cotangent.dtype
    blocks = -(-batch * tokens * heads * 32 // _THREADS)
    like = [((batch, heads, tokens, width), dtype), ((batch, heads, tokens, 1), dtype), (logits.shape, dtype)]
    constants = [("T", dtype), ("D", width), ("THREADS", _THREADS)]
    return GateGradients(*start(_kernel(), [cotangent, out, logits], constants, blocks, _THREADS, like))


@functools.cache
def _kernel() -> Any:
    return kernel("gates_back", ("cotangent", "out", "logits"), ("mixed", "means", "slopes"), _SOURCE)


def _works(dtype: mx.Dtype, width: int) -> bool:
    """By formulas in float32, of two clips of three tokens and five heads."""
    cotangent = mx.random.normal((2, 3, 5, width), key=mx.random.key(0)).astype(dtype)
    out = mx.random.normal((2, 5, 3, width), key=mx.random.key(1)).astype(dtype)
    logits = mx.random.normal((2, 3, 5), key=mx.random.key(2)).astype(dtype)
    got, gate = gradients(cotangent, out, logits), 2 * mx.sigmoid(logits.astype(mx.float32))
    slope = cotangent.astype(mx.float32)
    along = gate * mx.sum(slope * out.astype(mx.float32).transpose(0, 2, 1, 3), axis=-1)
    return (
        close(got.mixed, (slope * gate[..., None]).transpose(0, 2, 1, 3))
        and close(got.means, along.transpose(0, 2, 1))
        and close(got.logits, along * (1 - 0.5 * gate))
    )
