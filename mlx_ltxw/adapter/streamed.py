"""Adapters on blocks that are not all in memory: each is changed when it is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import mlx.nn as nn

from mlx_ltxw.models.transformer import Block, Blocks
from mlx_ltxw.tree import share

Network = TypeVar("Network", bound=nn.Module)
Each = TypeVar("Each")
Fitting = Callable[[Block], Block]
"""A block of the base to the changed one; it may share the base's arrays."""


class ChangedBlocks:
    """Blocks, some of them changed as they are fetched; nothing of the changed ones is kept.

    Args:
        blocks: The base's.
        changes: By index.
        alone: Whether nobody needs the base's own, which are `StreamedLayers`: each is changed while it is read.
    """

    def __init__(self, blocks: Blocks[Block], changes: Mapping[int, Fitting], alone: bool = False) -> None:
        self.blocks, self.changes, self.alone = blocks, changes, alone

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int, /) -> Block:
        change = self.changes.get(index)
        if change is not None and self.alone:
            blocks: Any = self.blocks
            return blocks.changed(index, change)
        block = self.blocks[index]
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


def on_demand(model: Network) -> Network:
    """A clone of a model whose blocks are asked for one by one, so that each is changed when it comes: what adapters
    make of its weights is in memory while it is at work, and no longer."""
    clone = share(model)
    if blocks_on_demand(model) is None:
        clone.transformer_blocks = ChangedBlocks(model.transformer_blocks, {})
    return clone


def by_block(changes: Mapping[str, Each]) -> dict[str, dict[str, Each]]:
    """`transformer_blocks.i` -> those of that block, by the path in it; "" -> those outside the blocks."""
    blocks: dict[str, dict[str, Each]] = {}
    for path, each in changes.items():
        stem, *rest = path.split(".", 2)
        inside = stem == "transformer_blocks" and len(rest) == 2
        block, name = (f"{stem}.{rest[0]}", rest[1]) if inside else ("", path)
        blocks.setdefault(block, {})[name] = each
    return blocks


def changed_by_path(
    model: Network, changes: Mapping[str, Each], change: Callable[[Any, dict[str, Each]], Any]
) -> Network:
    """A clone of a model with changes of its linears, at once or, where blocks are fetched on demand, with each.

    Args:
        model: Left as it is.
        changes: By the linears' paths.
        change: Of a module and its changes, by the paths in it, to a changed clone.
    """
    on_demand = blocks_on_demand(model)
    if on_demand is None:
        return change(model, dict(changes))
    blocks = by_block(changes)
    clone = change(model, blocks.pop("", {}))
    own = {int(path.rpartition(".")[2]): partial(_with, change, each) for path, each in blocks.items()}
    clone.transformer_blocks = ChangedBlocks(on_demand, own)
    return clone


def _with(change: Callable[[Any, dict[str, Each]], Any], changes: dict[str, Each], block: Block) -> Block:
    return change(block, changes)


def change_each(model: nn.Module, change: Fitting) -> None:
    """Changes every block of a model whose blocks are fetched on demand, from now on."""
    blocks = blocks_on_demand(model)
    model.transformer_blocks = ChangedBlocks(blocks, dict.fromkeys(range(len(blocks)), change))
