"""Puts saved arrays into a network: all of them, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.packed import quantize
from mlx_ltxw.printing import some
from mlx_ltxw.weights.names import grouped

_AGAIN = "Convert the checkpoint again with this version of mlx-ltxw."
LAYER = re.compile(r"(?:^|\.)(?:layers|transformer_blocks|transformer_1d_blocks)\.(\d{1,9})\.")
"""Finds the number of the layer that a tensor belongs to."""
Shapes = Mapping[str, tuple[int, ...]]


def parameter_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every parameter's path and shape; computes none of them."""
    return {name: tuple(value.shape) for name, value in tree_flatten(network.parameters())}


def check_depth(component: str, layers: int, names: Iterable[str]) -> None:
    """Refuses a config with more layers than the files hold, before anything of that depth is built.

    Args:
        component: For the message.
        layers: Layer path -> `group_size`, `bits` and `mode`.
        names: Of the tensors; layers are numbered in them (`transformer_blocks.47.`).

    Raises:
        UserError: it has more; fewer, or none of the tensors at all, are for the strict load to list.
    """
    held = max((int(found[1]) + 1 for name in names if (found := LAYER.search(name))), default=0)
    if 0 < held < layers:
        raise UserError(
            f"The config of the {component} has {layers:,} layers, and its tensors have {held:,}.",
            "Use a checkpoint with its own config.",
        )


def mismatches(wanted: Shapes, found: Shapes) -> list[str]:
    """One line for every kind of difference between what a network needs and what there is."""
    missing = [f"missing: {line}" for line in grouped(name for name in wanted if name not in found)]
    extra = [f"unexpected: {line}" for line in grouped(name for name in found if name not in wanted)]
    odd = [
        f"{name} is {list(found[name])} instead of {list(wanted[name])}"
        for name in wanted
        if name in found and tuple(found[name]) != tuple(wanted[name])
    ]
    return [*missing, *extra, *odd]


def quantize_layers(network: nn.Module, layers: Mapping[str, Any]) -> None:
    """Turns linears into quantised ones, still without values, so that saved packed weights fit.

    Args:
        network: Changed in place.
        layers: Settings (`group_size`, `bits`, `mode`) by layer path, as in a model directory's `config.json`.

    Raises:
        UserError: a path that names no layer of the network.
    """
    if not layers:
        return
    paths = {path for path, layer in network.named_modules() if hasattr(layer, "to_quantized")}
    if unknown := [path for path in layers if path not in paths]:
        raise UserError(
            f"The model's config quantises layers that its network does not have: {'; '.join(grouped(unknown))}.",
            _AGAIN,
        )
    quantize(network, lambda path, _: dict(layers[path]) if path in layers else False)


def read_arrays(files: Sequence[Path]) -> dict[str, mx.array]:
    """All arrays of some safetensors files; each is read from disk when it is first used.

    Raises:
        UserError: a file that MLX cannot read.
    """
    arrays: dict[str, mx.array] = {}
    for file in files:
        try:
            arrays.update(mx.load(str(file), format="safetensors"))  # type: ignore[arg-type]
        except RuntimeError as error:
            raise UserError(
                f"{file} cannot be read ({error}).", "Copy it again, or convert the checkpoint again."
            ) from error
    return arrays


def fill(network: nn.Module, arrays: Mapping[str, mx.array], where: str, hint: str = _AGAIN) -> None:
    """Loads `arrays` into `network`, strictly and lazily.

    Args:
        network: Changed in place.
        arrays: By parameter path.
        where: What the arrays come from, for the message.
        hint: What to do when they do not fit.

    Raises:
        UserError: lists every missing, unexpected and misshapen tensor at once.
    """
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    if faults := mismatches(parameter_shapes(network), shapes):
        raise UserError(f"{where} does not fit its network: {'; '.join(some(faults))}.", hint)
    network.load_weights(list(arrays.items()), strict=True)
