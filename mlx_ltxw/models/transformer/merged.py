"""Linears of one input as one product: their weights lie in one array, below each other.

Each linear keeps its place, and has its rows of that array as a view, so adapters, measures and exports find what they
know, and nothing is in memory twice. An attention multiplies with the whole array where it has one (`_merged`), which
saves a start of a product each. On a GPU that waits for the host this is a sixth of a small forward.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models.transformer.attention import Attention, bare

MERGED = {"cpu": False, "cuda": True, "metal": False}
"""Whether a run lays linears together when it loads a transformer, by backend: where starting a product costs most."""

GATES = "to_gate_logits"
SELF = (("to_q", "to_k", "to_v", GATES),)
CROSS = (("to_q", GATES), ("to_k", "to_v"))
"""Linears with one input, of an attention to itself and of one to something else. Gates that are packed otherwise, or
not at all, stay by themselves."""


class Laid(NamedTuple):
    """Linears that were laid together.

    Attributes:
        before: Their arrays as they were, by name.
        whole: The arrays of all of them.
        views: Each linear's, which are rows of those.
    """

    before: list[dict[str, mx.array]]
    whole: dict[str, mx.array]
    views: list[dict[str, mx.array]]

    @property
    def arrays(self) -> list[mx.array]:
        """All that is in memory."""
        return [*self.whole.values(), *(array for each in self.views for array in each.values())]

    def fill(self) -> None:
        """Takes the linears' arrays as they are now: of what was laid together before it had come."""
        for name, whole in self.whole.items():
            whole[...] = mx.concatenate([each[name] for each in self.before])
            start = 0
            for view in self.views:
                stop = start + len(view[name])
                view[name][...] = whole[start:stop]
                start = stop
        self.before.clear()


def merge(block: nn.Module) -> list[Laid]:
    """Lays linears of one input into one array, in all attentions of a block that are whole.

    Args:
        block: Changed in place; it must be the only one to hold its arrays, or they are in memory twice.

    Returns:
        What was laid together; its arrays are not computed yet.
    """
    return [
        laid
        for path, module in block.named_modules()
        if type(module) is Attention
        for names in (SELF if path.endswith("attn1") else CROSS)
        for laid in merge_linears(module, names)
    ]


def merge_linears(attention: Attention, names: tuple[str, ...]) -> list[Laid]:
    """`merge` of some linears of an attention, where they are alike, the gates aside."""
    known = next((each for each in (names, names[:-1]) if len(each) > 1 and _alike(attention, each)), ())
    if not known:
        return []
    linears = [bare(attention[name]) for name in known]
    leaves = _leaves(linears[0])
    before = [{leaf: linear[leaf] for leaf in leaves} for linear in linears]
    whole = {leaf: mx.concatenate([each[leaf] for each in before]) for leaf in leaves}
    views, start = list[dict[str, mx.array]](), 0
    for linear, each in zip(linears, before, strict=True):
        stop = start + len(each[leaves[0]])
        views.append({leaf: whole[leaf][start:stop] for leaf in leaves})
        dict.update(linear, views[-1])
        start = stop
    attention["_merged"] = attention.get("_merged", {}) | {" ".join(known): whole}
    return [Laid(before, whole, views)]


def forget(block: nn.Module, changed: Iterable[str]) -> list[Laid]:
    """Takes apart what is one product no more, because some of its linears have other weights now. Where all but the
    gates have, they are laid together again.

    Args:
        block: Or any other module; changed in place.
        changed: The linears' paths in it.

    Returns:
        As `merge`.
    """
    paths, made = set(changed), list[Laid]()
    for path, module in block.named_modules():
        for key in list(module.get("_merged", {})) if isinstance(module, Attention) else []:
            names = (*key.split(),)
            ours = [name for name in names if f"{path}.{name}" in paths]
            if ours:
                module["_merged"] = {other: one for other, one in module["_merged"].items() if other != key}
                made += merge_linears(module, names) if {*names} - {*ours} <= {GATES} else []
    return made


def _leaves(linear: nn.Module) -> list[str]:
    return [name for name, value in linear.items() if isinstance(value, mx.array) and not name.startswith("_")]


def _alike(attention: Attention, names: tuple[str, ...]) -> bool:
    """Whether linears have weights of one kind, and adapters beside them, if any, can go on from what they make."""
    if any(name not in attention or bare(attention[name]) is None for name in names):
        return False
    linears = [bare(attention[name]) for name in names]
    kinds = {
        (type(one), *sorted(_leaves(one)), *(getattr(one, of, None) for of in ("group_size", "bits", "mode")))
        for one in linears
    }
    shapes = {(leaf, one[leaf].shape[1:], one[leaf].dtype) for one in linears for leaf in _leaves(one)}
    return len(kinds) == 1 and len(shapes) == len(_leaves(linears[0]))
