"""What an adapter file is and does: `mlx-ltxw inspect FILE`."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
from mlx_ltxw.adapter.deltas import Delta, DoRA, Full, LoHa, LoKr, LowRank, rms
from mlx_ltxw.adapter.formats import Adapter, read
from mlx_ltxw.adapter.names import kind
from mlx_ltxw.adapter.outline import outline, too_large
from mlx_ltxw.adapter.source import locate
from mlx_ltxw.printing import printable, readable, some
from mlx_ltxw.weights.header import Header, read_header

_MOST_LINES = 40
_METHODS: dict[type, str] = {LowRank: "LoRA", LoKr: "LoKr", LoHa: "LoHa", DoRA: "DoRA", Full: "whole difference"}


@dataclass(frozen=True)
class AdapterDescription:
    """An adapter in figures.

    Attributes:
        name: The file's name, or what the user called it.
        format: How it spells module names.
        methods: LoRA, LoKr, LoHa, DoRA or whole difference -> modules.
        ranks: Rank -> modules.
        alphas: Alpha, stored or configured -> modules; empty when the file knows none.
        scales: What multiplies B @ A -> modules.
        dtypes: Weight dtype -> how many modules have it.
        targets: Kind of module -> how many.
        rms: Kind of module -> root mean square of its changes' elements (of DoRA: before the lengths); of a large file,
            which is described from its header, none.
        parameters: Numbers stored.
        biases: Modules whose bias changes too.
        leftover: What is not for the transformer -> why.
        notes: What reading had to assume.
        metadata: The file's own.
        modules: Module -> root mean square of its change; None where it was not measured.
    """

    name: str
    format: str
    methods: dict[str, int]
    ranks: dict[str, int]
    alphas: dict[str, int]
    scales: dict[str, int]
    dtypes: dict[str, int]
    targets: dict[str, int]
    rms: dict[str, float]
    parameters: int
    biases: int
    leftover: dict[str, str]
    notes: tuple[str, ...]
    metadata: dict[str, str]
    modules: dict[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"adapter     {self.name}",
            f"format      {self.format} ({_counted(self.methods)})",
            f"rank        {_counted(self.ranks) or 'none'}",
            f"alpha       {_counted(self.alphas) or 'not stored'}"
            + (f"; scale {_counted(self.scales)}" if self.scales else ""),
            f"weights     {self.parameters:,} ({_counted(self.dtypes)})",
            f"changes     {len(self.modules)} modules" + (f" and {self.biases} biases" if self.biases else ""),
        ]
        for name, count in self.targets.items():
            lines.append(f"  {name:<22}{count:>5}" + (f"   rms {self.rms[name]:.3e}" if name in self.rms else ""))
        places = [f"no place    {name}: {why}" for name, why in self.leftover.items()]
        lines += places[:_MOST_LINES] + [f"no place    and {len(places) - _MOST_LINES:,} more"] * (
            len(places) > _MOST_LINES
        )
        lines += [f"note        {note}" for note in self.notes]
        lines += [f"metadata    {key}: {_shortened(value)}" for key, value in sorted(self.metadata.items())]
        return "\n".join(printable(line) for line in lines)


def describe_adapter_file(source: str | Path) -> AdapterDescription:
    """Reads and describes an adapter: a file, a folder, a Hub repository or a built-in name.

    Raises:
        UserError: as `formats.read` and `source.locate`.
    """
    located = locate(str(source), BUILTIN_ADAPTERS)
    header = read_header(located.path)
    header.check_complete()
    if too_large(header):
        return _describe_outline(located.name, header)
    return describe_adapter(read(located.path, config=located.config, name=located.name))


def _describe_outline(name: str, header: Header) -> AdapterDescription:
    """Of a large adapter, whose changes are not measured."""
    found = outline(header)
    size = sum(tensor.nbytes for tensor in header.tensors.values())
    note = f"The file is large ({readable(size)}, {len(header.tensors):,} tensors); its changes were not measured."
    return AdapterDescription(
        name=name,
        format="+".join(found.formats),
        methods=dict(found.methods.most_common()),
        ranks=dict(found.ranks.most_common()),
        alphas=dict(found.alphas.most_common()),
        scales={},
        dtypes=dict(found.dtypes.most_common()),
        targets=found.targets,
        rms={},
        parameters=found.parameters,
        biases=found.biases,
        leftover=found.leftover,
        notes=(note,),
        metadata=dict(header.metadata),
        modules=dict.fromkeys(found.modules),
    )


def describe_adapter(adapter: Adapter) -> AdapterDescription:
    """Describes an adapter already read."""
    measured = {path: rms(delta) for path, delta in sorted(adapter.deltas.items())}
    squares: dict[str, list[float]] = defaultdict(list)
    sizes: dict[str, list[int]] = defaultdict(list)
    for path, value in measured.items():
        size = math.prod(adapter.deltas[path].shape)
        squares[kind(path)].append(value * value * size)
        sizes[kind(path)].append(size)
    deltas = list(adapter.deltas.values())
    tensors = [tensor for delta in deltas for tensor in _tensors(delta)]
    return AdapterDescription(
        name=adapter.name,
        format=adapter.format,
        methods=_count([_METHODS[type(delta)] for delta in deltas]),
        ranks=_count([f"{delta.rank}" for delta in deltas if delta.rank is not None]),
        alphas=_count([f"{alpha:g}" for alpha in adapter.alphas.values()]),
        scales=_count([f"{_scale(delta):g}" for delta in deltas]),
        dtypes=_count([str(tensor.dtype).removeprefix("mlx.core.") for tensor in tensors]),
        targets={name: len(values) for name, values in sorted(squares.items())},
        rms={name: math.sqrt(sum(squares[name]) / sum(sizes[name])) for name in sorted(squares)},
        parameters=sum(tensor.size for tensor in tensors) + sum(bias.size for bias in adapter.biases.values()),
        biases=len(adapter.biases),
        leftover=adapter.leftover,
        notes=adapter.notes,
        metadata=adapter.metadata,
        modules=dict(measured),
    )


def _tensors(delta: Delta) -> list[Any]:
    if isinstance(delta, LowRank):
        return [delta.a, delta.b]
    if isinstance(delta, Full):
        return [delta.diff]
    if isinstance(delta, DoRA):
        return [*_tensors(delta.inner), delta.magnitude]
    return [*delta.w1, *delta.w2]


def _scale(delta: Delta) -> float:
    if isinstance(delta, DoRA):
        return _scale(delta.inner)
    return 1.0 if isinstance(delta, Full) else delta.scale


def _count(values: list[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _counted(counts: dict[str, int]) -> str:
    """`32`, or `32 (288), 384 (1360)` when there are several."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(some([f"{value} ({count})" for value, count in counts.items()], 20))


def _shortened(text: str, limit: int = 160) -> str:
    text = " ".join(text[:10_000].split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
