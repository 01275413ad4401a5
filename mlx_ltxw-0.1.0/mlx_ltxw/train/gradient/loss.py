"""Flow matching: a straight path from the clip to noise, and the velocity along it.

Source: `ltx_trainer/training_strategies/flexible.py`; arXiv:2210.02747.
"""

from __future__ import annotations

import mlx.core as mx


def noised(clean: mx.array, noise: mx.array, sigma: mx.array) -> mx.array:
    """`(1 - sigma) clean + sigma noise`: (B, T, C) at noise levels (B,)."""
    level = sigma[:, None, None]
    return (1 - level) * clean + level * noise


def velocity_loss(velocity: mx.array, clean: mx.array, noise: mx.array) -> mx.array:
    """Mean squared distance from the true velocity, `noise - clean`; (B, T, C) to (B,) fp32."""
    error = velocity.astype(mx.float32) - (noise - clean)
    return mx.mean(error * error, axis=(1, 2))
