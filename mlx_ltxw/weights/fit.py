"""Whether a model's tensors are those of its networks, told from headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.printing import some
from mlx_ltxw.weights.components import COMPONENTS, IN_CHECKPOINT, component_named, upsampler_name
from mlx_ltxw.weights.loading import mismatches, other_kinds, parameter_shapes, quantize_layers
from mlx_ltxw.weights.memory import FLOATS
from mlx_ltxw.weights.model_dir import ModelDir


def placed(model: ModelDir, *components: str) -> int:
    """How many tensors the networks take, upsamplers' among them and the text encoder's left aside: all that there are.

    Args:
        model: Of either layout.
        components: These alone.

    Raises:
        UserError: lists everything missing, unexpected or misshapen, or of whole numbers where fractions belong.
    """
    count, total, faults = 0, 0, []
    for component in components or (*IN_CHECKPOINT, *map(upsampler_name, model.upsamplers)):
        tensors = {tensor.name: tensor.shape for tensor in model.tensors(component)}
        network = component_named(component).build(_config(model, component, tensors), tensors)
        quantize_layers(network, model.quantized_layers(component))
        wanted = parameter_shapes(network)
        floats = {tensor.name for tensor in model.tensors(component) if tensor.dtype in FLOATS}
        lines = mismatches(wanted, tensors) + other_kinds(network, tensors, floats)
        faults += [f"{component}: {line}" for line in lines]
        right = {name for name, shape in tensors.items() if wanted.get(name) == shape}
        count += sum(not other_kinds(network, {name: tensors[name]}, floats) for name in right) if lines else len(right)
        total += len(wanted.keys() | tensors.keys())
    if faults:
        raise UserError(
            f"placed {count:,} of {total:,} tensors of {model.name}; this does not fit: {'; '.join(some(faults))}.",
            "Download or convert it again.",
        )
    return count


def _config(model: ModelDir, component: str, tensors: Mapping[str, tuple[int, ...]]) -> Any:
    """A network's config; where no text encoder is known, the projection's width is its own tensor's."""
    if component != "text_projection" or model.has_text_encoder:
        return model.network_config(component)
    shape = tensors.get("video_aggregate_embed.weight") or (1,)
    return COMPONENTS[component].read_config(model.checkpoint_config, text_width=shape[-1], text_states=1)
