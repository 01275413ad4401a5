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
from .gemma import Gemma
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
class Step:
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
    steps: list[Step]


@dataclass
class Plan:
    """All of a conversion.

    Attributes:
        steps: By component.
        shards: In the order in which they are written.
        faults: One line for each kind of mismatch; a conversion needs none.
        placed, total: Checkpoint tensors that carry weights, and how many of them a parameter takes.
    """

    steps: dict[str, list[Step]] = field(default_factory=dict)
    shards: list[Shard] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    placed: int = 0
    total: int = 0

    @property
    def nbytes(self) -> int:
        return sum(step.nbytes for steps in self.steps.values() for step in steps)

    def quantized(self, component: str) -> dict[str, Quantization]:
        """Quantised layers of one component."""
        steps = self.steps.get(component, [])
        return {step.name.removesuffix(".weight"): step.quantization for step in steps if step.quantization}


def make_plan(
    checkpoint: Checkpoint, gemma: Gemma | None, quantization: Quantization | None, shard_bytes: int = SHARD_BYTES
) -> Plan:
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
    plan = Plan(total=len(checkpoint.tensors))
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
    plan.faults += [f"no component takes {line}" for line in grouped(unplaced)]
    for component, tensors in named.items():
        network = _network(component, checkpoint.config, tensors)
        steps = {
            name: Step(name, tensor, axes(component, name, len(tensor.shape)), scales.get(f"{component}/{name}"))
            for name, tensor in tensors.items()
        }
        wanted = parameter_shapes(network)
        shapes = {name: step.shape for name, step in steps.items()}
        plan.faults += [f"{component}: {line}" for line in mismatches(wanted, shapes)]
        plan.placed += sum(wanted.get(name) == shape for name, shape in shapes.items())
        _add(plan, component, _quantize(component, steps, linear_widths(network), quantization), shard_bytes)
    if gemma:
        plan.faults += [f"{TEXT_ENCODER}: {line}" for line in gemma.faults(checkpoint.config, named["text_projection"])]
        steps = {name: Step(name, tensor) for name, tensor in gemma.tensors.items()}
        _add(plan, TEXT_ENCODER, _quantize(TEXT_ENCODER, steps, gemma.linear_widths, quantization), shard_bytes)
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
    component: str, steps: Mapping[str, Step], widths: Mapping[str, int], quantization: Quantization | None
) -> list[Step]:
    """The steps in natural order, with quantisation where the predicate says so."""
    result = []
    for name in sorted(steps, key=natural_key):
        step, (layer, _, leaf) = steps[name], name.rpartition(".")
        width = widths.get(layer)
        if quantization and leaf == "weight" and width and in_blocks(component, layer, width, quantization):
            step = Step(step.name, step.source, step.axes, step.scale, quantization)
        result.append(step)
    return result


def _add(plan: Plan, component: str, steps: list[Step], shard_bytes: int) -> None:
    plan.steps[component] = steps
    groups = {f"{TEXT_ENCODER}/model" if component == TEXT_ENCODER else component: steps}
    if component == "transformer":
        groups = {
            "transformer.video": [step for step in steps if not audio_side(step.name)],
            "transformer.audio": [step for step in steps if audio_side(step.name)],
        }
    for stem, group in groups.items():
        cut = _cut(group, shard_bytes)
        for number, part in enumerate(cut, start=1):
            plan.shards.append(Shard(component, f"{stem}-{number:05d}-of-{len(cut):05d}.safetensors", part))


def _cut(steps: Sequence[Step], limit: int) -> list[list[Step]]:
    """Consecutive groups of at most `limit` bytes each; a larger step is alone."""
    groups: list[list[Step]] = []
    size = 0
    for step in steps:
        if not groups or size + step.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(step)
        size += step.nbytes
    return groups


def index(plan: Plan, component: str) -> dict[str, Any]:
    """A component's `*.safetensors.index.json`, in the Hub's form; file names are relative to its folder."""
    steps = plan.steps[component]
    shards = [shard for shard in plan.shards if shard.component == component]
    weight_map = {
        array.name: shard.file.rpartition("/")[2] for shard in shards for step in shard.steps for array in step.arrays
    }
    size, parameters = sum(step.nbytes for step in steps), sum(step.source.elements for step in steps)
    return {"metadata": {"total_size": size, "total_parameters": parameters}, "weight_map": weight_map}


def plan_of(component: str, steps: list[Step], shard_bytes: int = SHARD_BYTES) -> Plan:
    """The plan of one component alone, which comes from a file of its own."""
    plan = Plan(placed=len(steps), total=len(steps))
    _add(plan, component, steps, shard_bytes)
    return plan
