"""Ways to run a frozen model inside a gradient that keep less in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.adapter.apply import share
from mlx_ltxw.adapter.placing import replace


def checkpointed(block: nn.Module, method: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a block so that the backward pass computes it again instead of keeping its activations.

    What is trained goes in as an argument: a gradient reaches the arguments of `mx.checkpoint` alone, never what its
    function closes over. The other arguments (noise-level embeddings, rotations, text) are untrained and closed over.
    """
    inputs = [argument for argument in arguments if isinstance(argument, mx.array)]

    def run(trained: dict[str, Any], *inputs: mx.array) -> Any:
        copy = share(block)
        copy.update(trained)
        feed = iter(inputs)
        return method(copy, *(next(feed) if isinstance(item, mx.array) else item for item in arguments))

    return mx.checkpoint(run)(block.trainable_parameters(), *inputs)


@mx.custom_function
def _cast_product(x: mx.array, weight: mx.array) -> mx.array:
    # The cast weight depends on x, so that no two uses of the weight are seen as one and kept from one to the other.
    (weight,) = mx.depends([weight], [x])
    return x @ weight.astype(x.dtype).T


@_cast_product.vjp
def _cast_product_vjp(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array]:
    _, weight = primals
    (again,) = mx.depends([weight], [cotangent])
    return cotangent @ again.astype(cotangent.dtype), mx.zeros_like(weight)


class CastLinear(nn.Module):
    """A frozen linear whose weight is cast to the input's dtype at each use.

    MLX would keep the weight, cast up to fp32, from the forward to the backward pass: twice the size of a bf16 model.

    Args:
        linear: Gives its arrays.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        if "bias" in linear:
            self.bias = linear.bias
        self.freeze()

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out) in the input's dtype."""
        y: Any = _cast_product(x, self.weight)
        return y + self.bias.astype(x.dtype) if "bias" in self else y


def cast_at_each_use(model: nn.Module, dtype: mx.Dtype) -> None:
    """Replaces every plain linear of another dtype; quantised ones never keep a dense copy."""
    for path, module in list(model.named_modules()):
        if type(module) is nn.Linear and module.weight.dtype != dtype:
            replace(model, path, CastLinear(module))
