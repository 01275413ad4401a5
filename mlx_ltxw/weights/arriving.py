"""A network whose layers come into memory while it is at work: it begins with the first while later ones are read.

A thread fills staging memory, group after group, in the order in which a forward needs the tensors. Whoever asks for a
layer copies what has come into arrays of their own until the layer is there: all of MLX's work stays in one thread. An
array takes the place of the network's own, which MLX would read when it is first needed, and does so in the very object
that modules and their copies share; so the numbers are the same whichever of the two is used.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import SupportsIndex, TypeVar, overload

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_ltxw.weights.header import Tensor
from mlx_ltxw.weights.reading import TensorReader
from mlx_ltxw.weights.staging import Staging, room

GROUP = 128 << 20
"""Bytes that are read together, and that are in memory twice while they are copied; one tensor may be larger."""

Layer = TypeVar("Layer")
Put = Callable[[Mapping[str, mx.array]], object]
"""Takes arrays that have come, by parameter path."""

DtypeOf = Callable[[str, mx.Dtype], mx.Dtype]
"""The dtype in memory, by parameter path and stored dtype."""


class Arrival:
    """Tensors on their way from disk into a network's arrays; their reading begins at once.

    Args:
        parts: Of the network, in the order in which they are needed: tensors by parameter path.
        dtype_of: As above.
    """

    def __init__(self, parts: Sequence[Mapping[str, Tensor]], dtype_of: DtypeOf) -> None:
        apart = [groups(part) for part in parts]
        self._groups, self._dtype_of = [group for part in apart for group in part], dtype_of
        self._ends = [*itertools.accumulate(map(len, apart))]
        self._put: Put | None = None
        self._come: dict[str, mx.array] = {}
        self._taken = 0
        self._reader = TensorReader()
        self._filler = ThreadPoolExecutor(1, "arrive")
        self._coming: deque[tuple[int, Staging, Future[None]]] = deque()  # with the group's number
        self._copying: deque[tuple[Staging, dict[str, mx.array]]] = deque()
        weakref.finalize(self, self._reader.abandon)  # the filler ends with its pool
        self._read_on()

    @property
    def bytes_read(self) -> int:
        """So far."""
        return self._reader.bytes_read

    def into(self, put: Put) -> None:
        """Tells who takes the arrays of each group, by path; first those that have come already."""
        put(self._come)
        self._put, self._come = put, {}

    def wait_for(self, part: int) -> None:
        """Copies what comes until a part is there, and what has come already beyond it.

        Raises:
            UserError: the disk does not give it.
        """
        while self._taken < self._ends[part]:
            self._take()
        self.take_come()

    def take_come(self) -> None:
        """Copies what has been read, so that the reading goes on; waits for no reading."""
        while self._coming and self._coming[0][2].done():
            self._take()

    def finish(self) -> int:
        """Copies all that is to come.

        Returns:
            Bytes read.

        Raises:
            UserError: the disk does not give it.
        """
        while self._taken < len(self._groups):
            self._take()
        return self.bytes_read

    def _read_on(self) -> None:
        """Begins with the two groups that come next; more memory takes longer to make than it saves."""
        size = max(room(group.values()) for group in self._groups)
        while len(self._coming) < 2 and self._next < len(self._groups):
            self._begin(Staging(size))

    @property
    def _next(self) -> int:
        """The number of the first group that nobody reads yet."""
        return self._coming[-1][0] + 1 if self._coming else self._taken

    def _begin(self, staging: Staging) -> None:
        """Begins to read the next group."""
        number = self._next
        places = staging.places(self._groups[number])
        self._coming.append((number, staging, self._filler.submit(self._reader.fill, places)))

    def _take(self) -> None:
        """Begins to copy the next group, and to read into the memory of the one before it, whose copy is waited for."""
        while self._coming and self._coming[0][0] < self._taken:  # Ctrl-C came before it was gone from here
            self._coming.popleft()
        if not self._coming:  # the disk did not give it before
            self._read_on()
        number, staging, reading = self._coming[0]
        try:
            reading.result()
        except Exception:
            self._coming.clear()
            self._copying.clear()  # who asks again begins with two stagings anew
            raise
        arrays = staging.taken(self._groups[number], self._dtype_of, wait=False)
        self._taken = number + 1
        self._coming.popleft()
        self._copying.append((staging, arrays))
        if self._put is None:
            self._come |= arrays
        else:
            self._put(arrays)
        self._use_again(0 if self._taken == len(self._groups) else 1)

    def _use_again(self, unfinished: int) -> None:
        """Waits for copies until no more than so many are not done; what they were made of takes what comes next."""
        while len(self._copying) > unfinished:
            staging, arrays = self._copying.popleft()
            mx.eval(arrays)
            if self._next < len(self._groups):
                self._begin(staging)
        if not self._coming and not self._copying:
            self._filler.shutdown(wait=False)
            self._reader.close()


def in_place_of(arrays: dict[str, mx.array]) -> Put:
    """Puts what comes into the very objects of a network's own arrays, which it and its copies share; each leaves the
    table with that, so that a network may let go of it."""

    def put(come: Mapping[str, mx.array]) -> None:
        for path, array in come.items():
            arrays.pop(path)[...] = array

    return put


class Arriving(list[Layer]):
    """A network's layers, of which some may still be on their way: asking for one by its number waits for it.

    Going over them all does not, so what modules there are can be seen at any time.

    Args:
        layers: Of the network.
        wait: Returns when the layer of a number has come.
    """

    def __init__(self, layers: Iterable[Layer], wait: Callable[[int], None]) -> None:
        super().__init__(layers)
        self._wait = wait

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> Layer: ...

    @overload
    def __getitem__(self, index: slice, /) -> list[Layer]: ...

    def __getitem__(self, index: SupportsIndex | slice, /) -> Layer | list[Layer]:
        """As list's own.

        Raises:
            UserError: the disk does not give a layer.
        """
        for number in range(len(self))[index] if isinstance(index, slice) else [range(len(self))[index]]:
            self._wait(number)
        return super().__getitem__(index)

    def copy(self) -> Arriving[Layer]:
        """Another list of the same layers, which waits too."""
        return Arriving(self, self._wait)

    def then(self, changes: dict[int, Callable[[], object]]) -> Arriving[Layer]:
        """Another list of the same layers, some of which are changed once, when they have come and are first asked for.

        Args:
            changes: By a layer's number: puts other numbers into arrays of it. One that is interrupted is called again;
                one that is done leaves the table, with what it knows.
        """
        come = self._wait  # not this list, whose layers may be let go of

        def wait(number: int) -> None:
            come(number)
            if number in changes:
                changes[number]()
                del changes[number]

        return Arriving(self, wait)


def let_arrive(network: nn.Module, name: str, arrival: Arrival, wait: Callable[[int], None]) -> None:
    """Puts `Arriving` in place of a network's list of layers, when all outside of it has come.

    Args:
        network: Filled with arrays that are not read yet; changed in place.
        name: Of the attribute that holds the layers.
        arrival: Of `as_needed`'s parts.
        wait: For a part of it.
    """
    arrival.into(in_place_of(dict(tree_flatten(network.parameters()))))
    wait(0)
    network[name] = Arriving(network[name], lambda number: wait(number + 1))


def as_needed(name: str, count: int, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """A network's tensors by when a forward needs them: those outside the layers, then those of each layer.

    Args:
        name: Of the attribute that holds the layers.
        count: Of layers.
        tensors: By parameter path; one that has no place in the network may be among them.
    """
    parts: list[dict[str, Tensor]] = [{} for _ in range(count + 1)]
    for path, tensor in tensors.items():
        start, _, rest = path.partition(".")
        number = rest.partition(".")[0]
        inside = start == name and number.isdecimal() and int(number) < count
        parts[int(number) + 1 if inside else 0][path] = tensor
    return parts


def groups(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors in their order, so many together as fit, at least one."""
    found: list[dict[str, Tensor]] = []
    size = GROUP
    for path, tensor in tensors.items():
        size += (own := room([tensor]))
        if not found or size > GROUP:
            found.append({})
            size = own
        found[-1][path] = tensor
    return found
