"""Gemma-3's hidden states, through mlx-lm's own model file.

Two places differ from mlx-lm, to agree with transformers: the embedding's scale is rounded to the weights' dtype only
(mlx-lm rounds it to bfloat16 always), and the norms multiply in fp32 and round once (mlx-lm rounds `1 + weight` first).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.text.gemma_config import GemmaConfig, read_json
from mlx_ltxw.models.text.mlx_lm_models import gemma3_text

_AGAIN = "Download or convert the text encoder again."
_UNUSED = (".vision_tower.", ".multi_modal_projector.", ".lm_head.")
"""Parts of a Gemma-3 checkpoint that hidden states do not need."""


class ExactRMSNorm(nn.Module):
    """RMS norm whose weight is stored around zero: normalised and scaled in fp32, rounded once.

    Source: transformers `models/gemma3/modeling_gemma3.py:Gemma3RMSNorm`.
    """

    def __init__(self, weight: mx.array, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        scale = 1.0 + self.weight.astype(mx.float32)
        return mx.fast.rms_norm(x.astype(mx.float32), scale, self.eps).astype(x.dtype)


class Gemma(nn.Module):
    """The decoder stack of a Gemma-3 (`embed_tokens`, `layers`, `norm`), without a language-model head."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        source = gemma3_text()
        model = source.Gemma3Model(source.ModelArgs.from_dict(config.mlx_lm()))
        self.config = config
        self._mask = source.create_attention_mask
        self.embed_tokens = model.embed_tokens
        self.layers = model.layers
        self.norm = model.norm
        exact = tree_map(
            lambda leaf: ExactRMSNorm(leaf.weight, leaf.eps) if isinstance(leaf, source.RMSNorm) else leaf,
            self.leaf_modules(),
            is_leaf=nn.Module.is_module,
        )
        self.update_modules(exact)

    def __call__(self, ids: mx.array, in_pieces: bool = False) -> mx.array:
        """All hidden states of prompts without padding.

        Source: transformers `modeling_gemma3.py:Gemma3TextModel.forward` with `output_hidden_states`.

        Args:
            ids: (B, T) token ids, none of them padding.
            in_pieces: Evaluates after each layer, so that no single piece of work on the GPU gets too long for the
                system's watchdog.

        Returns:
            (B, T, layers + 1, hidden_size) in the weights' dtype: the scaled embedding, the output of each layer but
            the last, and the last one's after the final norm.
        """
        h = self.embed_tokens(ids).astype(self.norm.weight.dtype)
        h = h * mx.array(math.sqrt(self.config.hidden_size), h.dtype)
        whole, sliding = self._mask(h), self._mask(h, window_size=self.config.window)
        states = [h]
        for index, layer in enumerate(self.layers, start=1):
            h = layer(h, sliding if index % self.config.pattern else whole)
            states.append(h)
            if in_pieces:
                mx.eval(h)
        return mx.stack([*states[:-1], self.norm(h)], axis=2)


def load_gemma(path: Path, dtype: mx.Dtype) -> Gemma:
    """Builds a Gemma-3 from a folder in mlx-lm's layout, or Google's own.

    Weights are read from disk when they are first needed. Layers saved in mlx-lm's quantised form stay quantised.

    Args:
        path: Holds `config.json` and `model*.safetensors`.
        dtype: Of the weights that are not quantised, and of the activations.

    Raises:
        UserError: a file is missing or broken, the model is no Gemma-3, or its tensors do not fit its config.
    """
    settings = read_json(path / "config.json")
    model = Gemma(GemmaConfig.read(settings))
    _refuse_foreign_quantisation(settings)
    weights = _read_weights(path)
    nn.quantize(model, class_predicate=lambda name, leaf: f"{name}.scales" in weights and _packing(leaf, weights, name))
    _check(path, model, weights)
    cast = {k: v.astype(dtype) if mx.issubdtype(v.dtype, mx.floating) else v for k, v in weights.items()}
    model.load_weights(list(cast.items()), strict=True)
    return model.eval()


def _refuse_foreign_quantisation(settings: dict[str, Any]) -> None:
    foreign = (settings.get("quantization_config") or {}).get("quant_method")
    if foreign or settings.get("quantize_activations"):
        raise UserError(
            f"The text encoder is quantised by {foreign or 'activation'}, which is not supported.",
            "Use the unquantised Gemma-3, or quantise it with mlx-lm.",
        )


def _read_weights(path: Path) -> dict[str, mx.array]:
    """Tensors of the text model, by their names inside it."""
    weights: dict[str, mx.array] = {}
    for file in sorted(path.glob("model*.safetensors")):
        try:
            tensors: Any = mx.load(str(file))
        except RuntimeError as error:
            raise UserError(f"{file} cannot be read: {error}.", _AGAIN) from error
        weights.update(tensors)
    if not weights:
        raise UserError(f"There is no model*.safetensors in {path}.", _AGAIN)
    weights = {name: value for name, value in weights.items() if not any(part in f".{name}" for part in _UNUSED)}
    embedding = "embed_tokens.weight"  # its name tells what the file puts in front of every tensor of the text model
    prefix = next((name.removesuffix(embedding) for name in weights if name.endswith(embedding)), "")
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def _packing(layer: nn.Module, weights: dict[str, mx.array], name: str) -> dict[str, Any]:
    """How mlx-lm packed a layer, from the shapes it saved: each mode but affine allows one (bits, group) only."""
    width = layer.weight.shape[-1]
    scales = weights[f"{name}.scales"]
    group = width // scales.shape[-1]
    bits = weights[f"{name}.weight"].shape[-1] * 32 // width
    mode = {(4, 16): "nvfp4", (4, 32): "mxfp4", (8, 32): "mxfp8"}.get((bits, group), "")
    if scales.dtype != mx.uint8:
        mode = "affine"
    return {"group_size": group, "bits": bits, "mode": mode}


def _check(path: Path, model: nn.Module, weights: dict[str, mx.array]) -> None:
    """One error for all tensors that are missing, left over or misshapen."""
    wanted = {name: value.shape for name, value in tree_flatten(model.parameters())}
    faults = [f"{name} is missing" for name in sorted(wanted.keys() - weights.keys())]
    faults += [f"{name} is unknown" for name in sorted(weights.keys() - wanted.keys())]
    faults += [
        f"{name} is {weights[name].shape} instead of {wanted[name]}"
        for name in sorted(wanted.keys() & weights.keys())
        if weights[name].shape != wanted[name]
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise UserError(
            f"The text encoder in {path} does not fit its config: {shown}.",
            _AGAIN,
        )
