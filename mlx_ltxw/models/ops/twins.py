"""A kernel of our own with the gradient of the operations that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

_without_gradients = False


@contextmanager
def no_gradients() -> Iterator[None]:
    """Twins are their kernels and nothing else, which is less to describe, and to be done, for each call; so are
    products with packed weights (`packed.py`)."""
    global _without_gradients
    before, _without_gradients = _without_gradients, True
    try:
        yield
    finally:
        _without_gradients = before


def gradients_wanted() -> bool:
    """Whether what is described may be asked for its gradient."""
    return not _without_gradients


def twin(fused: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """`fused`, whose gradient is that of `plain`, except where there are `no_gradients`.

    Args:
        fused, plain: Of the same trees of arrays and constants, to the same tree of arrays.
    """

    @mx.custom_function
    def function(*args: Any) -> Any:
        return fused(*args)

    @function.vjp
    def back(primals: Any, cotangent: Any, output: Any) -> list[mx.array]:
        def over(*arrays: mx.array) -> list[mx.array]:
            given = iter(arrays)
            made = plain(*tree_map(lambda leaf: next(given) if isinstance(leaf, mx.array) else leaf, args))
            return [array for _, array in tree_flatten(made)]

        args = primals if isinstance(primals, tuple | list) else (primals,)
        arrays = [leaf for _, leaf in tree_flatten(args) if isinstance(leaf, mx.array)]
        _, gradients = mx.vjp(over, arrays, [array for _, array in tree_flatten(cotangent)])
        return gradients

    def call(*args: Any) -> Any:
        return fused(*args) if _without_gradients else function(*args)

    return call
