"""What goes where: every tensor of the sources, every array of the outputs, every file. Made from headers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.nn as nn

from mlx_ltxw.weights.components import COMPONENTS, IN_CHECKPOINT, TEXT_ENCODER, audio_side
from mlx_ltxw.weights.header import BITS, Tensor
from mlx_ltxw.weights.loading import mismatches, parameter_shapes
from mlx_ltxw.weights.names import grouped, natural_key

from .checkpoint import Checkpoint
from .gemma import GemmaFiles
from .layout import axes, component_of
from .quantize import Quantization, in_blocks

SHARD_BYTES = 2 << 30
"""A file is closed before it grows past this; a larger tensor has a file of its own."""


@dataclass(frozen=True)
class Array:
    """One array of an output file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * BITS[self.dtype] // 8


@dataclass(frozen=True)
class Entry:
    """One source tensor and what it becomes.

    Attributes:
        name: Parameter path in the network.
        source: The tensor.
        axes: How its axes move, or None.
        scale: Its fp8 scale, or None.
        quantization: Or None.
    """

    name: str
    source: Tensor
    axes: tuple[int, ...] | None = None
    scale: Tensor | None = None
    quantization: Quantization | None = None

    @property
    def dtype(self) -> str:
        """Stored as the source has it; fp8 becomes bfloat16, and float64, which MLX lacks, float32."""
        return {"F8_E4M3": "BF16", "F64": "F32"}.get(self.source.dtype, self.source.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.source.shape
        return shape if self.axes is None else tuple(shape[axis] for axis in self.axes)

    @property
    def arrays(self) -> list[Array]:
        """The output arrays, in the order in which they are written."""
        if self.quantization is None:
            return [Array(self.name, self.dtype, self.shape)]
        layer = self.name.removesuffix("weight")
        packed = self.quantization.packed(self.shape, self.dtype)
        return [Array(layer + leaf, dtype, shape) for leaf, (dtype, shape) in packed.items()]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


@dataclass(frozen=True)
class Shard:
    """One output file, by its path relative to the model directory, and the component it belongs to."""

    component: str
    file: str
    entries: list[Entry]


@dataclass
class ConversionPlan:
    """All of a conversion.

    Attributes:
        entries: By component.
        shards: In the order in which they are written.
        faults: One line for each kind of mismatch; a conversion needs none.
        placed, total: Checkpoint tensors that carry weights, and how many of them a parameter takes.
    """

    entries: dict[str, list[Entry]] = field(default_factory=dict)
    shards: list[Shard] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    placed: int = 0
    total: int = 0

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entries in self.entries.values() for entry in entries)

    def quantized(self, component: str) -> dict[str, Quantization]:
        """Quantised layers of one component."""
        entries = self.entries.get(component, [])
        return {entry.name.removesuffix(".weight"): entry.quantization for entry in entries if entry.quantization}


def make_plan(
    checkpoint: Checkpoint, gemma: GemmaFiles | None, quantization: Quantization | None, shard_bytes: int = SHARD_BYTES
) -> ConversionPlan:
    """Maps every tensor to one parameter, and checks it against the networks that the config describes.

    Args:
        checkpoint: The sources' tensors and config.
        gemma: The text encoder's; None only for a plan that is not carried out.
        quantization: For the linears that `quantize.in_blocks` chooses.
        shard_bytes: Largest output file.

    Returns:
        The plan; its `faults` list what does not fit.

    Raises:
        UserError: the config lacks a key or describes another model.
    """
    plan = ConversionPlan(total=len(checkpoint.tensors))
    named: dict[str, dict[str, Tensor]] = {component: {} for component in IN_CHECKPOINT}
    scales: dict[str, Tensor] = {}
    unplaced = []
    for official, tensor in checkpoint.tensors.items():
        if (spot := component_of(official)) is None:
            unplaced.append(official)
            continue
        component, name = spot
        named[component][name] = tensor
        if official in checkpoint.scales:
            scales[f"{component}/{name}"] = checkpoint.scales[official]
    plan.faults += [f"no component takes {line}" for line in grouped(name or repr(name) for name in unplaced)]
    for component, tensors in named.items():
        network = _network(component, checkpoint.config, tensors)
        entries = {
            name: Entry(name, tensor, axes(component, name, len(tensor.shape)), scales.get(f"{component}/{name}"))
            for name, tensor in tensors.items()
        }
        wanted = parameter_shapes(network)
        if not entries:
            plan.faults.append(f"{component}: none of its {len(wanted):,} tensors is there")
            continue
        shapes = {name: entry.shape for name, entry in entries.items()}
        plan.faults += [f"{component}: {line}" for line in mismatches(wanted, shapes)]
        plan.placed += sum(wanted.get(name) == shape for name, shape in shapes.items())
        _add(plan, component, _quantize(component, entries, linear_widths(network), quantization), shard_bytes)
    if gemma:
        plan.faults += [f"{TEXT_ENCODER}: {line}" for line in gemma.faults(checkpoint.config, named["text_projection"])]
        entries = {name: Entry(name, tensor) for name, tensor in gemma.tensors.items()}
        _add(plan, TEXT_ENCODER, _quantize(TEXT_ENCODER, entries, gemma.linear_widths, quantization), shard_bytes)
    return plan


def _network(component: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network that the checkpoint's config describes; none of its weights are computed.

    The text projection's input width stands in no config: it is its own tensor's, and the text encoder is held to it.
    """
    numbers = {}
    if component == "text_projection":
        embed = tensors.get("video_aggregate_embed.weight")
        numbers = {"text_width": embed.shape[-1] if embed else 1, "text_states": 1}
    return COMPONENTS[component].build(COMPONENTS[component].read_config(config, **numbers), tensors)


def linear_widths(network: nn.Module) -> dict[str, int]:
    """Input width of every linear, by path."""
    return {path: layer.weight.shape[1] for path, layer in network.named_modules() if isinstance(layer, nn.Linear)}


def _quantize(
    component: str, entries: Mapping[str, Entry], widths: Mapping[str, int], quantization: Quantization | None
) -> list[Entry]:
    """The entries in natural order, with quantisation where the predicate says so."""
    result = []
    for name in sorted(entries, key=natural_key):
        entry, (layer, _, leaf) = entries[name], name.rpartition(".")
        width = widths.get(layer)
        if quantization and leaf == "weight" and width and in_blocks(component, layer, width, quantization):
            entry = Entry(entry.name, entry.source, entry.axes, entry.scale, quantization)
        result.append(entry)
    return result


def _add(plan: ConversionPlan, component: str, entries: list[Entry], shard_bytes: int) -> None:
    plan.entries[component] = entries
    groups = {f"{TEXT_ENCODER}/model" if component == TEXT_ENCODER else component: entries}
    if component == "transformer":
        groups = {
            "transformer.video": [entry for entry in entries if not audio_side(entry.name)],
            "transformer.audio": [entry for entry in entries if audio_side(entry.name)],
        }
    for stem, group in groups.items():
        cut = _cut(group, shard_bytes)
        for number, part in enumerate(cut, start=1):
            plan.shards.append(Shard(component, f"{stem}-{number:05d}-of-{len(cut):05d}.safetensors", part))


def _cut(entries: Sequence[Entry], limit: int) -> list[list[Entry]]:
    """Consecutive groups of at most `limit` bytes each; a larger entry is alone."""
    groups: list[list[Entry]] = []
    size = 0
    for entry in entries:
        if not groups or size + entry.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += entry.nbytes
    return groups


def index(plan: ConversionPlan, component: str) -> dict[str, Any]:
    """A component's `*.safetensors.index.json`, in the Hub's form; file names are relative to its folder."""
    entries = plan.entries[component]
    shards = [shard for shard in plan.shards if shard.component == component]
    weight_map = {
        array.name: shard.file.rpartition("/")[2]
        for shard in shards
        for entry in shard.entries
        for array in entry.arrays
    }
    size, parameters = sum(entry.nbytes for entry in entries), sum(entry.source.elements for entry in entries)
    return {"metadata": {"total_size": size, "total_parameters": parameters}, "weight_map": weight_map}


def plan_of(component: str, entries: list[Entry], shard_bytes: int = SHARD_BYTES) -> ConversionPlan:
    """The plan of one component alone, which comes from a file of its own."""
    plan = ConversionPlan(placed=len(entries), total=len(entries))
    _add(plan, component, entries, shard_bytes)
    return plan
