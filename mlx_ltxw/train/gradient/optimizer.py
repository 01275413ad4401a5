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


@dataclass
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

    def advance(self, gradient: mx.array, length: float, config: TrainConfig) -> None:
        """One AdamW step, computed at once.

        MLX writes results into the memory of arrays that nobody holds any more: so the new numbers take the place of
        the old ones, unless somebody else has a view of those.

        Args:
            gradient: (N,) fp32.
            length: Its norm.
            config: The run's training options.
        """
        sizes = mx.array(step_sizes(config, self.step, length))
        self.parameters, self.first, self.second = _adamw(self.parameters, self.first, self.second, gradient, sizes)
        self.step += 1
        mx.eval(self.parameters, self.first, self.second)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of the step that follows `step` steps: a straight line down, times a straight line up during the warm-up."""
    decay = 1 + (config.final_learning_rate - 1) * step / config.steps
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return config.learning_rate * decay * rise


def norm(gradient: mx.array) -> mx.array:
    """Euclidean, of a gradient (N,): a scalar."""
    return mx.sqrt(mx.sum(mx.square(gradient)))


def step_sizes(config: TrainConfig, step: int, length: float) -> list[float]:
    """The numbers of the step that follows `step` steps, for a gradient of this norm.

    Returns:
        What the weights are shrunk by, the step along the first moment, the second moment's correction, and what the
        gradient and its square enter the moments with; a gradient longer than `max_grad_norm` is shortened to that.
    """
    rate, count = learning_rate(config, step), step + 1
    first, second = (1 - beta**count for beta in BETAS)
    shortened = min(config.max_grad_norm / (length + 1e-6), 1.0) if config.max_grad_norm else 1.0
    entering = ((1 - BETAS[0]) * shortened, (1 - BETAS[1]) * shortened**2)
    return [1 - rate * config.weight_decay, rate / first, 1 / math.sqrt(second), *entering]


@mx.compile
def _adamw(
    parameters: mx.array, first: mx.array, second: mx.array, gradient: mx.array, sizes: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """The new parameters and moments."""
    first = BETAS[0] * first + sizes[3] * gradient
    second = BETAS[1] * second + sizes[4] * mx.square(gradient)
    change = sizes[1] * first / (mx.sqrt(second) * sizes[2] + EPS)
    return parameters * sizes[0] - change, first, second
