"""Adapters on blocks that are not all in memory: each is changed when it is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mlx.nn as nn

from mlx_ltxw.models.transformer import Block, Blocks

Fitting = Callable[[Block], Block]
"""A block of the base to the changed one; it may share the base's arrays."""


class ChangedBlocks:
    """Blocks, some of them changed as they are fetched; nothing of the changed ones is kept.

    Args:
        blocks: The base's.
        changes: By index.
    """

    def __init__(self, blocks: Blocks[Block], changes: Mapping[int, Fitting]) -> None:
        self.blocks, self.changes = blocks, changes

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int, /) -> Block:
        block = self.blocks[index]
        change = self.changes.get(index)
        return block if change is None else change(block)

    @property
    def layers(self) -> list[Any]:
        """The base's modules, for what they are; those of streamed blocks have no numbers."""
        blocks: Any = self.blocks
        return getattr(blocks, "layers", blocks)  # a list has itself


def blocks_on_demand(model: nn.Module) -> Any:
    """The model's blocks if they are made when they are asked for; None where they are a list in memory."""
    blocks = getattr(model, "transformer_blocks", None)
    return None if isinstance(blocks, list) else blocks


def change_each(model: nn.Module, change: Fitting) -> None:
    """Changes every block of a model whose blocks are fetched on demand, from now on."""
    blocks = blocks_on_demand(model)
    model.transformer_blocks = ChangedBlocks(blocks, dict.fromkeys(range(len(blocks)), change))
