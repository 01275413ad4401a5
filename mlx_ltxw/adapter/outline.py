"""A large adapter as its header tells it: names, shapes and dtypes; of its numbers only the alphas are read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from mlx_ltxw.adapter.container import array
from mlx_ltxw.adapter.deltas import number
from mlx_ltxw.adapter.keys import layout, split_key
from mlx_ltxw.adapter.names import Spellings, kind, not_transformer
from mlx_ltxw.weights.header import Header, Tensor
from mlx_ltxw.weights.stored import opened

_LARGEST_FILE = 1 << 30  # bytes of tensors that are read to measure an adapter
_MOST_TENSORS = 20_000
_LARGEST_CHANGE = 1 << 26  # elements of one changed weight (LTX-2.3's largest in a block has so many)
_MOST_ALPHAS = 10_000
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_METHODS = {"lokr": "LoKr", "hada": "LoHa", "lora": "LoRA", "diff": "whole difference"}


@dataclass(frozen=True)
class Outline:
    """What the names and shapes of an adapter's tensors tell.

    Attributes:
        formats: How modules are spelled.
        methods, ranks, dtypes, alphas: Each -> how many modules, or tensors.
        modules: Official paths of the modules it changes.
        biases: Modules whose bias changes too.
        parameters: Numbers stored.
        leftover: Name in the file -> why it has no place.
    """

    formats: tuple[str, ...]
    methods: Counter[str]
    ranks: Counter[str]
    dtypes: Counter[str]
    alphas: Counter[str]
    modules: tuple[str, ...]
    biases: int
    parameters: int
    leftover: dict[str, str]

    @property
    def targets(self) -> dict[str, int]:
        """Kind of module -> how many."""
        return dict(sorted(Counter(kind(path) for path in self.modules).items()))


def too_large(header: Header) -> bool:
    """Whether measuring an adapter would take long, or more memory than a small machine has."""
    return (
        len(header.tensors) > _MOST_TENSORS
        or sum(tensor.nbytes for tensor in header.tensors.values()) > _LARGEST_FILE
        or any(_elements(parts) > _LARGEST_CHANGE for parts in _grouped(header)[0].values())
    )


def outline(header: Header) -> Outline:
    """Reads an adapter's header and its alphas."""
    groups, leftover = _grouped(header)
    spellings, modules = Spellings(None), []
    methods: Counter[str] = Counter()
    ranks: Counter[str] = Counter()
    for name, parts in groups.items():
        if unsupported := next((role for role in parts if role.startswith("unsupported:")), None):
            leftover[name] = f"{unsupported.removeprefix('unsupported:')} is not implemented"
            continue
        path = spellings.resolve(name)
        if path is None:
            part = not_transformer(name)
            leftover[name] = f"belongs to {part}" if part else "no such module in the transformer"
            continue
        modules.append(path)
        methods[_method(parts)] += 1
        if rank := _rank(parts):
            ranks[str(rank)] += 1
    weights = [t for parts in groups.values() for role, t in parts.items() if role != "alpha"]
    dtypes = Counter(_DTYPES.get(t.dtype, t.dtype) for t in weights)
    return Outline(
        tuple(sorted({layout(name) for name in groups})), methods, ranks, dtypes, _alphas(groups),
        tuple(sorted(modules)), sum("diff_b" in parts for parts in groups.values()),
        sum(t.elements for t in weights), leftover,
    )  # fmt: skip


def _grouped(header: Header) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """Module name in the file -> role -> tensor; and the tensors that are none of an adapter's."""
    groups: dict[str, dict[str, Tensor]] = {}
    leftover = {}
    for key, tensor in header.tensors.items():
        if split := split_key(key):
            groups.setdefault(split[0], {})[split[1]] = tensor
        else:
            leftover[key] = "not the name of an adapter's tensor"
    return groups, leftover


def _method(parts: Mapping[str, Tensor]) -> str:
    if {"dora_scale", "magnitude"} & parts.keys():
        return "DoRA"
    return next((name for start, name in _METHODS.items() if any(role.startswith(start) for role in parts)), "none")


def _rank(parts: Mapping[str, Tensor]) -> int | None:
    """Of the factors: the axis that the first of a pair shares with the second."""
    for role, axis in (("lora_A", 0), ("hada_w1_a", 1), ("lokr_w2_a", 1), ("lokr_w1_a", 1)):
        if role in parts and len(parts[role].shape) == 2:
            return parts[role].shape[axis]
    return None


def _elements(parts: Mapping[str, Tensor]) -> int:
    """Of the weight that the factors change, where forming it is how it is measured."""
    factors = [parts[role].shape for role in ("hada_w1_a", "hada_w1_b") if role in parts]
    whole = [parts[role].elements for role in parts if role.startswith(("diff", "lokr_w"))]
    formed = math.prod(shape[axis] for shape, axis in zip(factors, (0, -1), strict=False) if shape)
    return max([formed if len(factors) == 2 else 0, *whole])


def _alphas(groups: Mapping[str, Mapping[str, Tensor]]) -> Counter[str]:
    found: Counter[str] = Counter()
    stored = [parts["alpha"] for parts in groups.values() if "alpha" in parts and parts["alpha"].elements == 1]
    for tensor in stored[:_MOST_ALPHAS]:
        try:
            with opened(tensor.path) as read:
                found[f"{number(array(tensor, read)):g}"] += 1
        except ValueError:
            found["damaged"] += 1
    return found
