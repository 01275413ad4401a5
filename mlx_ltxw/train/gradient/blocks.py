"""Where the steps of training get a block of the base from: it is in memory, or some rows of it are on each machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.adapter.branches import Branch
from mlx_ltxw.machine import on_cpu
from mlx_ltxw.models.transformer import Block
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.gradient.recompute import expand
from mlx_ltxw.weights.components import of_adapted_audio
from mlx_ltxw.weights.dtype import default_dtype
from mlx_ltxw.weights.gathering import GatheredLayers, number_of


class WholeBlocks:
    """All blocks are in memory, or what an adapted audio stream uses of them is."""

    def there(self, block: Block) -> Block:
        """On the way there: a block with all that it is computed with."""
        return block

    def back(self, block: Block) -> Block:
        """The same, computed again on the way back."""
        return block

    def after(self, block: nn.Module, streams: Sequence[mx.array]) -> Any:
        """The same, not before its streams are there."""
        return block

    def done(self) -> None:
        """A walk there and back is computed."""

    def keep_pace(self) -> None:
        """What a machine does that has no clips while another one goes there and back."""


IN_MEMORY = WholeBlocks()


class SharedBlocks(WholeBlocks):
    """Each machine holds some rows of a block's matrices; all ask for the same ones in the same order.

    Args:
        layers: The base's.
        used: Whether a block's parameter is used on the way back, by its path.
        again: Whether blocks are computed again on the way back.
        dtype: In which a CPU unpacks quantised weights; None where it does not.
    """

    def __init__(
        self, layers: GatheredLayers[Block], used: Callable[[str], bool], again: bool, dtype: mx.Dtype | None
    ) -> None:
        self.layers, self._used, self._again, self._dtype = layers, used, again, dtype

    def there(self, block: Block) -> Block:
        everything = self.layers.latest(number_of(block))
        return self._filled(block, {path: array for path, array in everything.items() if self._used(path)})

    def back(self, block: Block) -> Block:
        return self._filled(block, self.layers.arrays(number_of(block), self._used))

    def after(self, block: nn.Module, streams: Sequence[mx.array]) -> Any:
        return self._filled(block, self.layers.arrays(number_of(block), after=streams))

    def done(self) -> None:
        self.layers.finish()

    def keep_pace(self) -> None:
        numbers = range(len(self.layers))
        for number in numbers:
            mx.eval(self.layers.arrays(number))
        for number in reversed(numbers) if self._again else ():
            mx.eval(self.layers.arrays(number, self._used))
        self.layers.finish()

    def _filled(self, block: nn.Module, arrays: dict[str, mx.array]) -> Any:
        copy = _with(block, arrays, "")
        if self._dtype is not None:
            expand(copy, self._dtype)
        return copy


def _with(value: Any, arrays: dict[str, mx.array], path: str) -> Any:
    """A copy of a module tree with arrays in their places, by official path; adapters' branches stay the very same,
    since gradients are told apart by them."""
    if isinstance(value, Branch):
        return value
    if isinstance(value, nn.Module):
        copy: Any = dict.__new__(type(value))
        copy.__dict__.update(value.__dict__)
        copy._no_grad = set(value._no_grad)
        for name, item in value.items():
            own = path if name == "base" else f"{path}.{name}" if path else name
            dict.__setitem__(
                copy, name, arrays.get(own, item) if isinstance(item, mx.array) else _with(item, arrays, own)
            )
        return copy
    if isinstance(value, list):
        return [_with(item, arrays, f"{path}.{number}") for number, item in enumerate(value)]
    return value


def shared_blocks(layers: GatheredLayers[Block], config: TrainConfig) -> SharedBlocks:
    """The blocks of a run of which each machine holds a part.

    Args:
        layers: The base's.
        config: The run's training options.
    """
    used = everything if config.coupled else of_adapted_audio
    return SharedBlocks(layers, used, config.gradient_checkpointing, default_dtype() if on_cpu() else None)


def everything(path: str) -> bool:
    """All parameters of a block."""
    return True
