"""Networks of which not all layers are in memory: the others are read from disk each time their turn comes.

A thread reads the next streamed layer while this one is computed; once the walk has moved on and the device is done
with it, a layer is gone. The numbers are those of a network that is held whole: the same bytes go through the same
operations.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_ltxw.machine import on_cpu
from mlx_ltxw.tree import share
from mlx_ltxw.weights.components import of_adapted_audio
from mlx_ltxw.weights.header import Tensor
from mlx_ltxw.weights.reading import TensorReader
from mlx_ltxw.weights.staging import Staging, beside, room

Layer = TypeVar("Layer", bound=nn.Module)
Change: TypeAlias = Callable[[Layer], Layer]
"""Of a layer that nobody else has; it may change it in place."""


@dataclass(frozen=True)
class Residency:
    """Which layers of a network stay in memory.

    Attributes:
        layers: How many, spread evenly, so that a streamed one has the time of several to be read in; None for all.
        audio_stays: Whether of all layers what an adapted audio stream uses stays, its reading of the video included;
            of the transformer, for training under the lock.
        ahead: Streamed layers that are read ahead of the one at work.
        keep_cached: Whether the system may keep what was read, for the next time; see `TensorReader`.
        vectors_stay: Whether of all layers biases, norms and tables stay, which are small.
        once: Whether the layers are gone over once, so that behind the last one nothing is read ahead.
    """

    layers: int | None = None
    audio_stays: bool = False
    ahead: int = 1
    keep_cached: bool = True
    vectors_stay: bool = False
    once: bool = False

    def stays(self, index: int, count: int) -> bool:
        """Whether a layer of `count` stays whole."""
        kept = count if self.layers is None else min(self.layers, count)
        return (index + 1) * kept // count > index * kept // count

    def keeps(self, index: int, count: int, path: str) -> bool:
        """Whether a parameter of a layer stays, by its path in the layer."""
        if self.stays(index, count) or (self.audio_stays and of_adapted_audio(path)):
            return True
        return self.vectors_stay and not is_matrix(path)


def is_matrix(path: str) -> bool:
    """Whether a layer's parameter is a linear's weight, or a part of a quantised one."""
    module, _, leaf = path.rpartition(".")
    return leaf in ("scales", "biases") or (leaf == "weight" and not module.endswith("norm"))


RESIDENT = Residency()
"""All stay."""

STREAMED = Residency(0)
"""None stays."""

STREAMED_ONCE = Residency(0, once=True)
"""None stays, and none is asked for twice."""


@dataclass
class Traffic:
    """What streaming has cost so far.

    Attributes:
        bytes_read: From disk, or from the system's cache of it.
        waited: Seconds that the computation stood still for it.
    """

    bytes_read: int = 0
    waited: float = 0.0


class StreamedLayers(Generic[Layer]):
    """The layers of a network, as a walk asks for them; see `Residency`.

    Attributes:
        layers: With every array that stays.
        streamed: For each layer, by parameter path in it, the tensors that are read anew.
        arrange: If any, is given each layer that was read, before its arrays are computed, to lay them otherwise.
            These are computed module by module then, the largest first, so that no more than the layer is there.

    Args:
        layers: As above; arrays of what is streamed are never looked at.
        streamed: As above.
        dtype_of: The dtype in memory, by layer, parameter path and stored dtype.
        residency: How far to read ahead.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        streamed: Sequence[Mapping[str, Tensor]],
        dtype_of: Callable[[int, str, mx.Dtype], mx.Dtype],
        residency: Residency,
    ) -> None:
        self.layers, self.streamed, self.dtype_of = list(layers), streamed, dtype_of
        self.arrange: Callable[[Layer], object] | None = None
        self._ahead, self._once = residency.ahead, residency.once
        self._reader = TensorReader(residency.keep_cached)
        self._thread = ThreadPoolExecutor(1, "stream")
        self._free: list[Staging] = []
        self._coming: dict[int, _Coming] = {}
        self._latest: tuple[int, Change[Layer] | None, Layer] | None = None
        self._waited = 0.0
        weakref.finalize(self, _end, self._thread, self._reader)

    @property
    def traffic(self) -> Traffic:
        """So far."""
        return Traffic(self._reader.bytes_read, self._waited)

    @property
    def staying(self) -> list[mx.array]:
        """The arrays of the layers that stay in memory."""
        return [
            value
            for layer, streamed in zip(self.layers, self.streamed, strict=True)
            for path, value in tree_flatten(layer.parameters())
            if path not in streamed
        ]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int, /) -> Layer:
        """A layer with all its arrays; the same one while it is the latest.

        Raises:
            UserError: the disk does not give it.
        """
        return self.changed(index, None)

    def changed(self, index: int, change: Change[Layer] | None) -> Layer:
        """A layer that is changed before anyone else has it, so that nothing is left of what a change takes the place
        of; the same one while it is the latest.

        Args:
            index: Of the layer.
            change: Given a layer of its own, whose arrays are not computed before the change computes them.

        Raises:
            UserError: the disk does not give it.
        """
        if self._latest is not None and self._latest[0] == index and self._latest[1] is change:
            return self._latest[2]
        self._latest = None
        if self.streamed[index]:
            layer = self._fetched(index, change)
        else:
            layer = self.layers[index]
            if change is not None:
                with mx.stream(beside()):
                    layer = change(share(layer))
        self._read_ahead(index)
        self._latest = index, change, layer
        return layer

    def forget_ahead(self) -> None:
        """Takes back what is read ahead: a new run asks the disk anew."""
        self._forget(self._coming)

    def _fetched(self, index: int, change: Change[Layer] | None) -> Layer:
        """A copy of a layer with what was read in its place."""
        coming = self._coming.pop(index, None)
        if coming is None:
            self.forget_ahead()
            coming = self._begin(index)
        began = time.perf_counter()
        try:
            coming.reading.result()
        except BaseException:
            self.forget_ahead()  # what failed with it is asked for again by who goes over the layers again
            raise
        finally:
            self._free.append(coming.staging)
            self._waited += time.perf_counter() - began
        if on_cpu():
            mx.synchronize()  # or the layer before is there too: MLX describes copies faster than that is done with
        copy: Any = share(self.layers[index])

        def arranged(arrays: dict[str, mx.array]) -> Any:
            nonlocal copy
            copy.update(tree_unflatten(list(arrays.items())))
            if self.arrange is None and change is None:
                return arrays
            arrays.clear()  # one that is laid otherwise is needed no more
            if self.arrange is not None:
                self.arrange(copy)
            if change is not None:
                copy = change(copy)
            for module in sorted(copy.children().values(), key=_nbytes, reverse=True):
                mx.eval(module)
            return copy

        coming.staging.taken(self.streamed[index], lambda path, stored: self.dtype_of(index, path, stored), arranged)
        return copy

    def _read_ahead(self, index: int) -> None:
        """Begins to read the next streamed layers, those of the next forward after the last; forgets all others."""
        order = [*range(index + 1, len(self)), *([] if self._once else range(index))]
        wanted = [later for later in order if self.streamed[later]][: self._ahead]
        self._forget([other for other in self._coming if other not in wanted])
        for later in wanted:
            if later not in self._coming:
                self._coming[later] = self._begin(later)

    def _forget(self, others: Iterable[int]) -> None:
        """Takes back what is being read. One thread reads in order, so that whatever still runs is done with its
        staging when the next reading begins."""
        for other in list(others):
            coming = self._coming.pop(other)
            coming.reading.cancel()
            self._free.append(coming.staging)

    def _begin(self, index: int) -> _Coming:
        tensors = self.streamed[index]
        staging = self._free.pop() if self._free else Staging(max(room(one.values()) for one in self.streamed))
        return _Coming(staging, self._thread.submit(self._reader.fill, staging.places(tensors)))


def _nbytes(module: Any) -> int:
    return sum(array.nbytes for _, array in tree_flatten(module.parameters()))


class _Coming(NamedTuple):
    """A layer that is being read."""

    staging: Staging
    reading: Future[None]


def staying(name: str, count: int, tensors: Mapping[str, Tensor], residency: Residency) -> dict[str, Tensor]:
    """Those of a network's tensors that stay in memory.

    Args:
        name: Of the attribute that holds the layers.
        count: Of them.
        tensors: Of the whole network, by path.
        residency: What stays.
    """
    stay = {}
    for path, tensor in tensors.items():
        start, _, rest = path.partition(".")
        number, _, inside = rest.partition(".")
        if start != name or residency.keeps(int(number), count, inside):
            stay[path] = tensor
    return stay


def stream_layers(
    network: nn.Module,
    name: str,
    tensors: Mapping[str, Tensor],
    dtype_of: Callable[[str, mx.Dtype], mx.Dtype],
    residency: Residency,
) -> None:
    """Puts `StreamedLayers` in place of a network's list of layers.

    Args:
        network: Filled, its arrays not yet read; changed in place.
        name: Of the attribute that holds the layers.
        tensors: Where every parameter of the network lies, by its path.
        dtype_of: The dtype in memory, by parameter path and stored dtype.
        residency: What stays.
    """
    layers = network[name]
    streamed: list[dict[str, Tensor]] = [{} for _ in layers]
    stay = staying(name, len(layers), tensors, residency)
    for path, tensor in tensors.items():
        if path not in stay:
            _, number, inside = path.split(".", 2)
            streamed[int(number)][inside] = tensor
    if any(streamed):
        by_layer = lambda index, path, stored: dtype_of(f"{name}.{index}.{path}", stored)  # noqa: E731
        setattr(network, name, StreamedLayers(layers, streamed, by_layer, residency))


def _end(thread: ThreadPoolExecutor, reader: TensorReader) -> None:
    thread.shutdown(wait=False, cancel_futures=True)
    reader.close()
