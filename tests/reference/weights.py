"""Copies an official PyTorch module's weights into its MLX counterpart, strictly."""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import torch
from mlx.utils import tree_flatten
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def official_arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """The module's `state_dict` as NumPy arrays in MLX's layouts.

    Conv weights become channels-last ([O, I, ...] -> [O, ..., I]; transposed convs [I, O, K] -> [O, K, I]). Weights
    that do not belong to a conv layer stay as they are, floating ones as float32.
    """
    owners = dict(module.named_modules())
    arrays = {}
    for name, tensor in module.state_dict().items():
        array = (tensor.detach().float() if tensor.is_floating_point() else tensor.detach()).cpu().numpy()
        owner, _, leaf = name.rpartition(".")
        if leaf == "weight" and isinstance(owners[owner], _ConvTransposeNd):
            array = np.moveaxis(array, 0, -1)
        elif leaf == "weight" and isinstance(owners[owner], _ConvNd):
            array = np.moveaxis(array, 1, -1)
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
    return arrays


def load_official(
    mlx_module: nn.Module, torch_module: torch.nn.Module, rename: Callable[[str], str | None] | None = None
) -> None:
    """Fills `mlx_module` with the official weights; names and shapes must agree one to one.

    Args:
        mlx_module: Receives the arrays, in float32, evaluated.
        torch_module: The official module.
        rename: Official name -> MLX name, or None to leave a tensor out. Two official tensors may get one name if
            they hold the same values.

    Raises:
        AssertionError: with every missing, left-over, misshapen or contradictory tensor.
    """
    faults = []
    arrays: dict[str, np.ndarray] = {}
    for official, array in official_arrays(torch_module).items():
        name = rename(official) if rename else official
        if name is None:
            continue
        if name in arrays and not np.array_equal(arrays[name], array):
            faults.append(f"two different tensors for {name}")
        arrays[name] = array
    wanted = {name: tuple(value.shape) for name, value in tree_flatten(mlx_module.parameters())}
    faults += [f"missing in the official module: {name} {wanted[name]}" for name in sorted(wanted.keys() - arrays)]
    faults += [f"unknown to the MLX module: {name} {arrays[name].shape}" for name in sorted(arrays.keys() - wanted)]
    for name in sorted(wanted.keys() & arrays):
        if wanted[name] != arrays[name].shape:
            faults.append(f"shape of {name}: MLX {wanted[name]}, official {arrays[name].shape}")
    assert not faults, "\n".join(faults)
    mlx_module.load_weights([(name, mx.array(array)) for name, array in arrays.items()], strict=True)
    mx.eval(mlx_module.parameters())


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Gives every parameter a random value that keeps activations near unit size; buffers stay. Returns `module`.

    Official classes leave some parameters uninitialised (`torch.empty`) or at zero, where a fault would not show.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim >= 2:
            fan_in = math.prod(parameter.shape[1:])
            parameter.copy_((noise / math.sqrt(fan_in)).to(parameter))
        else:
            centre = 1.0 if name.endswith("weight") else 0.0
            parameter.copy_((centre + 0.1 * noise).to(parameter))
    return module.eval()
