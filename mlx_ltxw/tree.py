"""Trees of modules: copies that share their arrays, the linears of a model, replacing one of them."""

from __future__ import annotations

from typing import Any, TypeAlias

import mlx_ltxw.blas  # noqa: F401  # before MLX

# isort: split
import mlx.core as mx
import mlx.nn as nn

Linear: TypeAlias = "nn.Linear | nn.QuantizedLinear"


def share(value: Any) -> Any:
    """A copy of a module tree: new modules, lists and tables, the same arrays."""
    if isinstance(value, nn.Module):
        copy: Any = dict.__new__(type(value))
        copy.__dict__.update(value.__dict__)
        copy._no_grad = set(value._no_grad)
        dict.update(copy, {name: share(item) for name, item in value.items()})
        return copy
    if isinstance(value, dict):
        return {name: share(item) for name, item in value.items()}
    if isinstance(value, list):
        items = value.copy()  # a list that waits for its items goes on to (`weights/arriving.py`)
        items[:] = [share(item) for item in value]
        return items
    return tuple(share(item) for item in value) if type(value) is tuple else value


def linears(model: nn.Module) -> dict[str, Linear]:
    """Every linear of a model, by its official path."""
    return {
        path: module for path, module in model.named_modules() if isinstance(module, nn.Linear | nn.QuantizedLinear)
    }


def size_of(linear: Linear) -> tuple[int, int]:
    """(out, in) of a linear's weight, quantised or not."""
    out, columns = linear.weight.shape
    if isinstance(linear, nn.QuantizedLinear):
        columns = columns * 32 // linear.bits
    return out, columns


def dense_weight(linear: Linear) -> mx.array:
    """A linear's weight (out, in), dequantised to fp32 if need be, else as it is."""
    if not isinstance(linear, nn.QuantizedLinear):
        return linear.weight
    weight = mx.dequantize(
        linear.weight, linear.scales, linear.get("biases"), linear.group_size, linear.bits, mode=linear.mode
    )
    return weight.astype(mx.float32)


def at(model: nn.Module, path: str) -> Any:
    """The module at a path, whether its arrays are there yet or not (`weights/arriving.py`); the model itself at ""."""
    node: Any = model
    for part in path.split(".") if path else ():
        node = list.__getitem__(node, int(part)) if isinstance(node, list) else node[part]
    return node


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    """Puts `module` at `path`, in place of what is there."""
    parents, _, last = path.rpartition(".")
    node = at(model, parents)
    node[int(last) if isinstance(node, list) else last] = module
