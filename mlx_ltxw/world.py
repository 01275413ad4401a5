"""Several machines, started together by `mlx.launch -n 2`: what they tell and gather through MLX's own engine.

Training sums gradients over them; generating shares out clips, guidance passes, tokens or weights. Every operation that
all take part in is called by all, in the same order.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx_ltxw.blas  # noqa: F401  # before MLX

# isort: split
import mlx.core as mx
import numpy as np

from mlx_ltxw.errors import UserError

_STARTERS = ("MLX_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # set by mlx.launch and mpirun for what they start


class Pulse:
    """How long ago this machine got on with what all machines do together.

    Within `with pulse:` all are at the same work, and `beat` says that a piece of it is done. When no machine has got
    on for long, though all live, what hangs is the way between them (`links.py`).
    """

    def __init__(self) -> None:
        self._depth, self._since = 0, 0.0

    def __enter__(self) -> None:
        self.beat()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1

    def beat(self) -> None:
        """A piece is done."""
        self._since = time.monotonic()

    @property
    def quiet(self) -> float | None:
        """Seconds since the last piece; None while this machine is at work of its own."""
        return time.monotonic() - self._since if self._depth else None


@dataclass(frozen=True)
class World:
    """The machines of a run.

    Attributes:
        rank: This process's number, from 0; 0 writes.
        size: How many.
        group: MLX's, None when alone.
        pulse: Whether this one gets on.
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    pulse: Pulse = field(default_factory=Pulse, compare=False, repr=False)

    @classmethod
    def join(cls) -> World:
        """Meets the others, if `mlx.launch` or `mpirun` started this process.

        Raises:
            UserError: they cannot be reached.
        """
        if not cls.launched():
            return cls()
        try:
            backend = "nccl" if "NCCL_HOST_IP" in os.environ and mx.cuda.is_available() else "any"
            group = mx.distributed.init(strict=True, backend=backend)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"The machines of this run do not find each other ({error}).",
                "Start them with `mlx.launch`, with addresses that each can reach (docs/machines.md).",
            ) from error
        return cls(group.rank(), group.size(), group)

    @staticmethod
    def launched() -> bool:
        """Whether `mlx.launch` or `mpirun` started this process; `mlx.launch -n 1` gives it an empty list of hosts."""
        hosts = Path(os.environ.get("MLX_HOSTFILE", os.devnull))
        alone = hosts.is_file() and not hosts.read_text().strip()
        return any(name in os.environ for name in _STARTERS) and not alone

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, vector: mx.array) -> mx.array:
        """The sum over all machines."""
        return vector if self.size == 1 else mx.distributed.all_sum(vector, group=self.group)

    def sum_in_order(self, vector: mx.array) -> mx.array:
        """The sum over all machines, of the first two first and so on: the same bits whatever way a backend sums."""
        if self.size == 1:
            return vector
        every = self.gather(vector)
        total = every[0]
        for rank in range(1, self.size):
            total = total + every[rank]
        return total

    def gather(self, x: mx.array) -> mx.array:
        """What each machine has, of one shape (...): (size, ...), in the order of the ranks."""
        return x[None] if self.size == 1 else mx.distributed.all_gather(x[None], group=self.group)

    def wait(self) -> None:
        """Returns when all have come here."""
        mx.eval(self.sum(mx.zeros(1)))

    def exchange(self, data: bytes) -> list[bytes]:
        """What each machine says, in the order of the ranks; of any lengths."""
        with self.pulse:
            lengths = np.asarray(_evaluated(self.gather(mx.array([len(data)], dtype=mx.int32))))[:, 0]
            padded = np.zeros(max(1, int(lengths.max())), np.uint8)
            padded[: len(data)] = np.frombuffer(data, np.uint8)
            rows = np.asarray(_evaluated(self.gather(mx.array(padded))))
        return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]

    def shared(self, data: bytes = b"") -> bytes:
        """What the leading machine says; the others' is of no account."""
        return self.exchange(data if self.leads else b"")[0]


ALONE = World()


def _evaluated(x: mx.array) -> mx.array:
    """Computed without Python's lock, which NumPy would hold while it waits; so this machine can say that it lives."""
    mx.eval(x)
    return x


def share_of(total: int, size: int, unit: int = 1) -> list[int]:
    """How many of `total` each of `size` machines gets, in whole units, as evenly as can be; the first get more.

    The total must be a multiple of the unit.
    """
    units, rest = divmod(total // unit, size)
    return [(units + (rank < rest)) * unit for rank in range(size)]


class Turns:
    """Collectives inside of a computation, one after another.

    MLX computes a graph in an order of its own, and all machines must come to the same collective: each one here
    depends on the one before it.

    Args:
        world: The machines.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.bytes = 0
        """Received by each machine so far, in all collectives that were described."""
        self._latest: mx.array | None = None

    def sum(self, x: mx.array) -> mx.array:
        """The sum over all machines."""
        size = self.world.size
        self.bytes += 2 * x.nbytes * (size - 1) // size
        self._latest = self.world.sum(self._in_turn(x))
        return self._latest

    def gather(self, x: mx.array) -> mx.array:
        """What each has, of one shape (...): (size, ...)."""
        self.bytes += x.nbytes * (self.world.size - 1)
        self._latest = self.world.gather(self._in_turn(x))
        return self._latest

    def settle(self) -> None:
        """Lets the latest result go, once it is computed."""
        self._latest = None

    def finish(self) -> None:
        """Computes all that was described, needed or not: the other machines take part in it."""
        if self._latest is not None:
            mx.eval(self._latest)
        self.settle()

    def _in_turn(self, x: mx.array) -> mx.array:
        if self._latest is not None:
            (x,) = mx.depends([x], [self._latest])
        return x
