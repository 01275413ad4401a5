"""LTX-2.3 on paper: its networks' names and shapes at a precision, for the memory plan; nothing is on disk."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from mlx_ltxw.convert.quantize import Quantization, in_blocks
from mlx_ltxw.weights.components import COMPONENTS, TEXT_ENCODER, audio_side, component_named
from mlx_ltxw.weights.header import Tensor
from mlx_ltxw.weights.loading import parameter_shapes
from mlx_ltxw.weights.model_dir import ModelDir

CONFIGS = Path(__file__).parent / "ltx-2.3.json"
"""The checkpoint's own config, and Gemma-3 12B's."""


class PaperModel(ModelDir):
    """The published model as `convert` would write it: headers without files.

    Networks are built without values, once for all precisions.

    Attributes:
        packing: As `convert -q` has it, or None for bf16.
    """

    packing: Quantization | None

    @classmethod
    def at(cls, precision: str | None) -> PaperModel:
        """The model at a precision; None for bf16."""
        model = cls(Path("LTX-2.3"), {"variant": "distilled", "config": _configs()["checkpoint"]}, {})
        object.__setattr__(model, "packing", Quantization.parse(precision) if precision else None)
        return model

    @property
    def disk(self) -> int:
        """Bytes of all its files, but for what is not weights."""
        return sum(tensor.nbytes for name in COMPONENTS for tensor in self.tensors(name))

    def network_config(self, component: str) -> Any:
        """As `ModelDir` has it, of the configs in this package."""
        return _network_config(component)

    def tensors(self, component: str, audio_only: bool = False) -> list[Tensor]:
        """The headers' entries of one network; `audio_only` leaves out those of the video side alone."""
        return [tensor for tensor in _tensors(component, self.packing) if not audio_only or audio_side(tensor.name)]

    def quantized_layers(self, component: str) -> dict[str, dict[str, Any]]:
        """Quantisation settings by layer path."""
        packed = self.packing
        return {layer: dict(packed.settings) for layer in _packed(component, packed)} if packed else {}


@functools.cache
def _configs() -> dict[str, Any]:
    configs: dict[str, Any] = json.loads(CONFIGS.read_text())
    return configs


@functools.cache
def _network_config(component: str) -> Any:
    if component == TEXT_ENCODER:
        return component_named(component).read_config(_configs()["gemma"])
    numbers = {}
    if component == "text_projection":
        gemma = _network_config(TEXT_ENCODER)
        numbers = {"text_width": gemma.hidden_size, "text_states": gemma.states}
    return component_named(component).read_config(_configs()["checkpoint"], **numbers)


@functools.cache
def _shapes(component: str) -> tuple[dict[str, tuple[int, ...]], frozenset[str]]:
    """Of a network: every parameter's shape, and the paths of its linears."""
    import mlx.nn as nn

    network = component_named(component).build(_network_config(component))
    start = "model." if component == TEXT_ENCODER else ""  # as its files name them
    linears = frozenset(start + path for path, layer in network.named_modules() if isinstance(layer, nn.Linear))
    return {start + path: shape for path, shape in parameter_shapes(network).items()}, linears


@functools.cache
def _packed(component: str, packing: Quantization) -> frozenset[str]:
    shapes, linears = _shapes(component)
    return frozenset(path for path in linears if in_blocks(component, path, shapes[f"{path}.weight"][1], packing))


@functools.cache
def _tensors(component: str, packing: Quantization | None) -> tuple[Tensor, ...]:
    shapes, _ = _shapes(component)
    packed = _packed(component, packing) if packing else frozenset()
    found = []
    for name, shape in shapes.items():
        layer, _, leaf = name.rpartition(".")
        parts = {leaf: ("BF16", shape)}
        if packing and layer in packed and leaf == "weight":
            parts = packing.packed((shape[0], shape[1]), "BF16")
        start = f"{layer}." if layer else ""
        found += [Tensor(start + leaf, dtype, size, CONFIGS, 0, 0) for leaf, (dtype, size) in parts.items()]
    return tuple(found)
