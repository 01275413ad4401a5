"""Ways to run a frozen model inside a gradient that keep less in memory, or take less time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_ltxw.models.transformer.inputs import BlockSkips
from mlx_ltxw.models.transformer.walk import BlockStep, Done, Streams, nothing_done
from mlx_ltxw.tree import dense_weight, linears, replace, share


def checkpointed(
    step: BlockStep[nn.Module], block: nn.Module, streams: Streams, skips: BlockSkips, done: Done = nothing_done,
    whole: Callable[[nn.Module, Streams], Any] = lambda block, streams: block,
) -> Streams:  # fmt: skip
    """Runs a step of a walk (`Walk.run`) so that the backward pass computes it again instead of keeping activations.

    What is trained goes in as an argument, since a gradient reaches the arguments of a custom function alone, never
    what it closes over. So do the streams. Whatever else the step uses (noise-level embeddings, rotations, text) is
    untrained and closed over.

    `mx.checkpoint` leaves open when the trained numbers' gradients are computed. Those that end beside the chain of
    blocks (keys and values of the text) would come last of all, and each block that was computed again would be kept
    for them. Here a block's own gradients come before the chain goes on.

    Args:
        step, block, streams, skips, done: As for `Walk.run`.
        whole: Gives a block what it is computed with beside that, once its streams are there, there and back.
    """
    names, trained = [], []
    for name, value in tree_flatten(block.trainable_parameters()):
        names.append(name)
        trained.append(value)

    def forward(*given: mx.array) -> Streams:
        copy: Any = share(block)
        copy.update(tree_unflatten(list(zip(names, given, strict=False))))
        before = given[len(names) :]
        return step(whole(copy, before), before, skips, nothing_done)

    run: Any = mx.custom_function(forward)

    @run.vjp
    def again(given: Any, cotangents: Any, outputs: Any) -> Any:
        given, arrived = _listed(given), _listed(cotangents)
        given = mx.depends(given, arrived)  # not before its turn
        _, gradients = mx.vjp(lambda *values: _listed(forward(*values)), given, arrived)
        own, onwards = gradients[: len(names)], gradients[len(names) :]
        if not own:
            return tuple(onwards)
        # one by one: nobody asks for the gradient of an untrained input, and it must not be computed for another's sake
        return (*own, *(mx.depends([gradient], own)[0] for gradient in onwards))

    after: Streams = run(*trained, *streams)
    return after


def _listed(values: Any) -> list[mx.array]:
    return [values] if isinstance(values, mx.array) else list(values)


@mx.custom_function
def _cast_linear(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    # The cast weight depends on x, so that no two uses of the weight are seen as one and kept from one to the other.
    (weight,) = mx.depends([weight], [x])
    return mx.addmm(bias, x, weight.astype(x.dtype).T)


@_cast_linear.vjp
def _cast_linear_vjp(
    primals: tuple[mx.array, mx.array, mx.array], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    _, weight, bias = primals
    (again,) = mx.depends([weight], [cotangent])
    return cotangent @ again.astype(cotangent.dtype), mx.zeros_like(weight), mx.zeros_like(bias)


class CastLinear(nn.Module):
    """A frozen linear for inputs of another dtype, whose weight is cast to that at each use.

    MLX would keep the weight, cast up to fp32, from the forward to the backward pass: twice the size of a bf16 model.

    Args:
        linear: Gives its arrays.
        dtype: bf16 or fp32, of the inputs.
        compiled: Whether it runs in a compiled function, where two casts would be seen as one and kept.
    """

    def __init__(self, linear: nn.Linear, dtype: mx.Dtype, compiled: bool) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias.astype(dtype) if "bias" in linear else mx.zeros(len(linear.weight), dtype)
        self._compiled = compiled
        self.freeze()

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out)."""
        y: Any = _cast_linear(x, self.weight, self.bias)
        return y

    def cast(self, x: mx.array) -> mx.array:
        """The weight in the dtype of `x`, which it is about to be multiplied with; by itself in any case."""
        return (mx.depends([self.weight], [x])[0] if self._compiled else self.weight).astype(x.dtype)


def cast_at_each_use(model: nn.Module, dtype: mx.Dtype, compiled: bool) -> None:
    """Replaces every plain linear of another dtype; quantised ones never keep a dense copy. Norms are cast for good."""
    for path, module in list(model.named_modules()):
        if type(module) is nn.Linear and module.weight.dtype != dtype:
            replace(model, path, CastLinear(module, dtype, compiled))
        if isinstance(module, nn.RMSNorm):
            module.weight = module.weight.astype(dtype)


def expand(model: nn.Module, dtype: mx.Dtype, which: Callable[[str], bool] = lambda _: True) -> None:
    """Replaces every quantised linear by a plain one of the very values it stands for.

    For MLX's CPU backend, where a quantised product takes several times as long as a plain one.

    Args:
        model: Changed in place.
        dtype: bf16 or fp32, of the plain weights.
        which: Whether a linear is replaced, by its path.
    """
    for path, packed in linears(model).items():
        if isinstance(packed, nn.QuantizedLinear) and which(path):
            plain = nn.Linear(1, 1, bias=False)
            plain.weight = dense_weight(packed).astype(dtype)
            if "bias" in packed:
                plain.bias = packed.bias
            replace(model, path, plain.freeze())
