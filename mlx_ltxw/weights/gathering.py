"""Networks whose layers are spread over several machines: each holds some rows of every matrix, and all of them come
together when a layer's turn comes.

The rows that are gathered are the file's, so the numbers are those of a network that each machine holds whole (after
ZeRO-3, arXiv:1910.02054). Every machine has to ask for the same layers in the same order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_ltxw.tree import share
from mlx_ltxw.weights.header import Tensor
from mlx_ltxw.weights.reading import TensorReader
from mlx_ltxw.weights.staging import Staging, room
from mlx_ltxw.weights.streaming import StreamedLayers
from mlx_ltxw.world import Turns, World, share_of

Layer = TypeVar("Layer", bound=nn.Module)


class GatheredLayers(Generic[Layer]):
    """The layers of a network, as a walk asks for them.

    Args:
        streamed: Tells what stays whole, and where the rest lies; a machine's rows of that are read now.
        world: The machines.

    Attributes:
        layers: With every array that each machine has whole; the others are never looked at.
        turns: The collectives.

    Raises:
        UserError: the disk does not give them.
    """

    def __init__(self, streamed: StreamedLayers[Layer], world: World) -> None:
        self.layers, self.turns = streamed.layers, Turns(world)
        for number, layer in enumerate(self.layers):
            set_number(layer, number)
        self._rows = [{path: tensor.shape[0] for path, tensor in one.items()} for one in streamed.streamed]
        self._own = _read(streamed.streamed, streamed.dtype_of, world)
        self._latest: tuple[int, dict[str, mx.array]] | None = None
        self.staying = [*streamed.staying, *(array for one in self._own for array in one.values())]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int, /) -> Layer:
        """A layer with all its arrays."""
        copy: Any = share(self.layers[index])
        copy.update(tree_unflatten(list(self.latest(index).items())))
        return copy

    def latest(self, index: int) -> dict[str, mx.array]:
        """What is gathered of a layer, by parameter path; gathered once for all that ask for it in a row."""
        if self._latest is None or self._latest[0] != index:
            self._latest = None
            self._latest = index, self.arrays(index)
        return self._latest[1]

    def arrays(
        self, index: int, which: Callable[[str], bool] = lambda path: True, after: Sequence[mx.array] = ()
    ) -> dict[str, mx.array]:
        """Gathers a layer's parameters.

        Args:
            index: Which layer.
            which: Of its parameters, by path in it; the same on all machines.
            after: Nothing is gathered before these are there.
        """
        gathered = {}
        for path, own in self._own[index].items():
            if which(path):
                (part,) = mx.depends([own], list(map(mx.stop_gradient, after))) if after else [own]
                gathered[path] = mx.stop_gradient(self._whole(part, self._rows[index][path]))
        return gathered

    def finish(self) -> None:
        """Gathers all that was asked for, needed or not, and lets it go."""
        self._latest = None
        self.turns.finish()

    def _whole(self, own: mx.array, rows: int) -> mx.array:
        """A parameter, of each machine's rows; those that got one less have a row of zeros behind theirs."""
        every = self.turns.gather(own)  # (machines, most, ...)
        counts = share_of(rows, len(every))
        if counts[0] == counts[-1]:
            return every.reshape(-1, *own.shape[1:])
        return mx.concatenate([part[:count] for part, count in zip(every, counts, strict=True)])


def set_number(layer: nn.Module, number: int) -> None:
    """Tells a layer, and copies of it, its place in the network."""
    layer.__dict__["gathered_number"] = number  # no parameter


def number_of(layer: nn.Module) -> int:
    """A layer's place in its network."""
    number: int = layer.__dict__["gathered_number"]
    return number


def own_rows(tensor: Tensor, world: World) -> Tensor:
    """A machine's rows of a tensor."""
    counts = share_of(tensor.shape[0], world.size)
    first, row = sum(counts[: world.rank]), tensor.nbytes // tensor.shape[0]
    count = counts[world.rank]
    return dataclasses.replace(
        tensor, shape=(count, *tensor.shape[1:]), start=tensor.start + first * row,
        stop=tensor.start + (first + count) * row,
    )  # fmt: skip


def _read(
    layers: Sequence[Mapping[str, Tensor]], dtype_of: Callable[[int, str, mx.Dtype], mx.Dtype], world: World
) -> list[dict[str, mx.array]]:
    """A machine's rows of each layer, as many of every parameter on every machine."""
    parts = [{path: own_rows(tensor, world) for path, tensor in layer.items()} for layer in layers]
    staging, reader = Staging(max(room(one.values()) for one in parts)), TensorReader()
    found = []
    try:
        for number, (part, layer) in enumerate(zip(parts, layers, strict=True)):
            reader.fill(staging.places(part))
            arrays = staging.taken(part, lambda path, stored, number=number: dtype_of(number, path, stored))  # type: ignore[misc]
            for path, array in arrays.items():
                most = share_of(layer[path].shape[0], world.size)[0]
                beside = [(0, most - len(array))] + [(0, 0)] * (array.ndim - 1)
                arrays[path] = mx.pad(array, beside) if len(array) < most else array
            mx.eval(arrays)
            found.append(arrays)
    finally:
        reader.close()
    return found
