"""Several machines, one adapter: each sees its share of every batch, and gradients are summed (`mlx.launch -n 2`)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import mlx_ltxw.blas  # noqa: F401  # before MLX

# isort: split
import mlx.core as mx

_STARTERS = ("MLX_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # set by mlx.launch and mpirun for what they start


@dataclass(frozen=True)
class World:
    """The machines of a run.

    Attributes:
        rank: This process's number, from 0; 0 writes.
        size: How many.
        group: MLX's, None when alone.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @classmethod
    def join(cls) -> World:
        """Meets the others, if `mlx.launch` or `mpirun` started this process."""
        if not any(name in os.environ for name in _STARTERS):
            return cls()
        group = mx.distributed.init(strict=True)
        return cls(group.rank(), group.size(), group)

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, vector: mx.array) -> mx.array:
        """The sum over all machines."""
        return vector if self.size == 1 else mx.distributed.all_sum(vector, group=self.group)

    def wait(self) -> None:
        """Returns when all have come here."""
        mx.eval(self.sum(mx.zeros(1)))
