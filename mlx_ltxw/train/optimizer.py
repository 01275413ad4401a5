"""AdamW on one vector, with the gradient shortened and the learning rate scheduled as the official trainer does.

Source: `ltx_trainer/trainer.py` (`torch.optim.AdamW` defaults, `clip_grad_norm_`, `LinearLR` 1.0 to 0.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx

from mlx_ltxw.train.config import TrainConfig

BETAS = (0.9, 0.999)
EPS = 1e-8


@dataclass(frozen=True)
class State:
    """Everything that changes from step to step; random numbers follow from the seed and the step alone.

    Attributes:
        step: Optimizer steps done.
        parameters: (N,) fp32, the adapter.
        first, second: (N,) fp32, AdamW's moments.
    """

    step: int
    parameters: mx.array
    first: mx.array
    second: mx.array

    @classmethod
    def fresh(cls, parameters: mx.array) -> State:
        """Before the first step."""
        return cls(0, parameters, mx.zeros_like(parameters), mx.zeros_like(parameters))


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of the step that follows `step` steps: a straight line down, times a straight line up during the warm-up."""
    decay = 1 + (config.final_learning_rate - 1) * step / config.steps
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return config.learning_rate * decay * rise


def step_sizes(config: TrainConfig, step: int) -> mx.array:
    """(3,) fp32: the shrinking of the weights, the step along the first moment, the second moment's correction."""
    rate, count = learning_rate(config, step), step + 1
    first, second = (1 - beta**count for beta in BETAS)
    return mx.array([1 - rate * config.weight_decay, rate / first, 1 / math.sqrt(second)])


def update(
    parameters: mx.array, first: mx.array, second: mx.array, gradient: mx.array, sizes: mx.array, max_norm: float
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """One AdamW step.

    Args:
        parameters, first, second: As in `State`.
        gradient: (N,) fp32.
        sizes: From `step_sizes`.
        max_norm: Longer gradients are shortened to it; 0 for no limit.

    Returns:
        The new parameters and moments, and the gradient's norm before it was shortened.
    """
    norm = mx.sqrt(mx.sum(gradient * gradient))
    if max_norm:
        gradient = gradient * mx.minimum(max_norm / (norm + 1e-6), 1.0)
    first = BETAS[0] * first + (1 - BETAS[0]) * gradient
    second = BETAS[1] * second + (1 - BETAS[1]) * gradient * gradient
    change = sizes[1] * first / (mx.sqrt(second) * sizes[2] + EPS)
    return parameters * sizes[0] - change, first, second, norm
