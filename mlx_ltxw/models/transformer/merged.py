"""Linears of one input as one product: their weights lie in one array, below each other.

Each linear keeps its place, and has its rows of that array as a view, so adapters, measures and exports find what they
know, and nothing is in memory twice. An attention multiplies with the whole array where it has one (`_merged`), which
saves a start of a product each. On a GPU that waits for the host this is a sixth of a small forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_ltxw.models.transformer.attention import GATES, Attention, bare

MERGED = {"cpu": False, "cuda": True, "metal": False}
"""Whether a run lays linears together when it loads a transformer, by backend: where starting a product costs most. On
Metal, where no forward waits for its host, nothing was measured."""

SELF = (("to_q", "to_k", "to_v", GATES),)
CROSS = (("to_q", GATES), ("to_k", "to_v"))
"""Linears with one input, of an attention to itself and of one to something else. Gates that are packed otherwise, or
not at all, stay by themselves."""


def merge(block: nn.Module, later: bool = False) -> None:
    """Lays linears of one input into one array, in all attentions of a block that are whole.

    Args:
        block: Changed in place; it must be the only one to hold its arrays, or they are in memory twice.
        later: Leave the arrays for when they are used; otherwise one attention at a time is in memory twice.
    """
    for path, attention in _attentions(block):
        for names in SELF if path.endswith("attn1") else CROSS:
            known = next((each for each in (names, names[:-1]) if len(each) > 1 and _alike(attention, each)), ())
            if known:
                _lay(attention, known, later)


def merge_again(block: nn.Module, changed: Iterable[str], alone: bool, later: bool = False) -> None:
    """Follows a change of linears' weights: what was one product with the old ones is one with the new ones, or none.

    Args:
        block: Or any other module; changed in place.
        changed: The paths in it of linears that have arrays of their own now.
        alone: Whether nobody needs the old arrays. Otherwise linears that were not changed would be in memory twice;
            so with any but gates among them, all stay by themselves.
        later: As for `merge`.
    """
    paths = set(changed)
    for path, attention in _attentions(block):
        for key in list(attention.get("_merged", {})):
            names = (*key.split(),)
            kept = {name for name in names if f"{path}.{name}" not in paths}
            if len(kept) == len(names):
                continue
            attention["_merged"] = {other: one for other, one in attention["_merged"].items() if other != key}
            if (alone or kept <= {GATES}) and _alike(attention, names):
                _lay(attention, names, later)


def filled_later(block: nn.Module, make: Callable[[], nn.Module]) -> Callable[[], None]:
    """What is to be called when a block's weights have come, of which other arrays were made before they had.

    It may be called again, if it was interrupted. It holds what was there before: let go of it when it is done.

    Args:
        block: Of those arrays; whatever holds these objects will have the numbers.
        make: Makes the block once more, from weights that have come, with the same arrays.
    """
    held = {path: array for path, array in tree_flatten(block) if isinstance(array, mx.array)}

    def fill() -> None:
        for path, array in tree_flatten(make()):
            if isinstance(array, mx.array) and held[path] is not array:
                held[path][...] = array

    return fill


def _attentions(block: nn.Module) -> list[tuple[str, Attention]]:
    return [(path, module) for path, module in block.named_modules() if type(module) is Attention]


def _lay(attention: Attention, names: tuple[str, ...], later: bool) -> None:
    linears = [bare(attention[name]) for name in names]
    leaves = _leaves(linears[0])
    ends = [0]
    for linear in linears:
        ends.append(ends[-1] + len(linear.weight))
    whole = {leaf: mx.concatenate([linear[leaf] for linear in linears]) for leaf in leaves}
    for linear, (start, stop) in zip(linears, pairwise(ends), strict=True):
        dict.update(linear, {leaf: whole[leaf][start:stop] for leaf in leaves})
    attention["_merged"] = attention.get("_merged", {}) | {" ".join(names): whole}
    if not later:
        mx.eval(whole, *([linear[leaf] for leaf in leaves] for linear in linears))


def _leaves(linear: nn.Module) -> list[str]:
    return [name for name, value in linear.items() if isinstance(value, mx.array) and not name.startswith("_")]


def _alike(attention: Attention, names: tuple[str, ...]) -> bool:
    """Whether linears have weights of one kind, and adapters beside them, if any, can go on from what they make."""
    linears: list[Any] = [bare(attention[name]) if name in attention else None for name in names]
    if any(linear is None for linear in linears):
        return False
    kinds = {
        (type(one), *sorted(_leaves(one)), *(getattr(one, of, None) for of in ("group_size", "bits", "mode")))
        for one in linears
    }
    shapes = {(leaf, one[leaf].shape[1:], one[leaf].dtype) for one in linears for leaf in _leaves(one)}
    return len(kinds) == 1 and len(shapes) == len(_leaves(linears[0]))
