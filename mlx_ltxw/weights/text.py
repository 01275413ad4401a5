"""The text encoder's folder: Gemma-3 in mlx-lm's layout (quantised or not) or in Google's own, with its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text
from mlx_ltxw.models.packed import quantize
from mlx_ltxw.models.text import Gemma, GemmaConfig, PromptTokenizer, TextEncoder
from mlx_ltxw.parsing import parse_json
from mlx_ltxw.weights.components import COMPONENTS, TEXT_ENCODER
from mlx_ltxw.weights.embedding import EmbeddingOnDisk
from mlx_ltxw.weights.header import known_header
from mlx_ltxw.weights.loading import fill, read_arrays
from mlx_ltxw.weights.streaming import RESIDENT, Residency, stream_layers

WEIGHTS = "model*.safetensors"
AGAIN = "Download or convert the text encoder again."
_UNUSED = (".vision_tower.", ".multi_modal_projector.", ".lm_head.")
"""Parts of a Gemma-3 checkpoint that hidden states do not need."""
_EMBEDDING = "embed_tokens."
Item = TypeVar("Item")


def read_table(file: Path) -> dict[str, Any]:
    """The values of a JSON file of the folder.

    Raises:
        UserError: it is missing, no JSON, or no table.
    """
    if not file.exists():
        raise UserError(f"The text encoder has no {file.name} ({file}).", AGAIN)
    values = parse_json(read_text(file), str(file), AGAIN)
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no JSON object.", AGAIN)
    return values


def load_tokenizer(folder: Path) -> PromptTokenizer:
    """Opens `tokenizer.json` and `tokenizer_config.json`.

    Raises:
        UserError: a file is missing or broken, or the tokenizer is none of Gemma-3's.
    """
    settings, file = read_table(folder / "tokenizer_config.json"), folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"The text encoder has no tokenizer.json ({file}).", AGAIN)
    return PromptTokenizer(read_text(file), settings, str(file))


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder.

    Raises:
        UserError: there is none.
    """
    files = sorted(folder.glob(WEIGHTS))
    if not files:
        raise UserError(f"There is no {WEIGHTS} in {folder}.", AGAIN)
    return files


def is_of_text_model(name: str) -> bool:
    """Whether hidden states need a tensor of a Gemma-3 checkpoint."""
    return not any(part in f".{name}" for part in _UNUSED)


def load_text_encoder(folder: Path, dtype: mx.Dtype, residency: Residency = RESIDENT) -> TextEncoder:
    """Gemma-3 and its tokenizer; see `load_gemma`.

    Args:
        folder: Holds `config.json`, `model*.safetensors`, `tokenizer.json` and `tokenizer_config.json`.
        dtype: Of the activations, and of the weights that are not quantised.
        residency: See `load_gemma`.

    Raises:
        UserError: a file is missing or broken, or the model is no Gemma-3.
    """
    if not folder.is_dir():
        raise UserError(f"There is no text encoder in {folder}.", "Convert one with {field:text_encoder}.")
    return TextEncoder(load_gemma(folder, dtype, residency=residency), load_tokenizer(folder))


def load_gemma(folder: Path, dtype: mx.Dtype, files: Sequence[Path] = (), residency: Residency = RESIDENT) -> Gemma:
    """Builds a Gemma-3; weights are read from disk when they are first needed, and quantised layers stay quantised.

    Args:
        folder: Holds `config.json` and `model*.safetensors`.
        dtype: Of the weights that are not quantised, and of the activations.
        files: Its weight files; by default all that lie there.
        residency: Which layers stay in memory; where one does not, the embedding's rows are read as they are needed.

    Raises:
        UserError: a file is missing or broken, the model is no Gemma-3, or its tensors do not fit its config.
    """
    settings = read_table(folder / "config.json")
    config = GemmaConfig.read(settings)
    _refuse_foreign_quantisation(settings)
    files = files or weight_files(folder)
    stored = {name: tensor for file in files for name, tensor in known_header(file).tensors.items()}
    network = COMPONENTS[TEXT_ENCODER].build(config, stored)
    weights = _text_tensors(read_arrays(files))
    packed = {name.removesuffix(".scales") for name in weights if name.endswith(".scales")}
    quantize(network, lambda name, leaf: name in packed and _packing(leaf, weights, name))
    fill(
        network,
        {k: v.astype(_in_memory(v.dtype, dtype)) for k, v in weights.items()},
        f"The text encoder in {folder}",
        AGAIN,
    )
    if residency is not RESIDENT:
        tensors = _text_tensors(stored)
        stream_layers(network, "layers", tensors, lambda name, stored: _in_memory(stored, dtype), residency)
        rows = {name.rpartition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(_EMBEDDING)}
        network.embed_tokens = EmbeddingOnDisk(network.embed_tokens, rows, dtype)
    return network.eval()


def _in_memory(stored: mx.Dtype, dtype: mx.Dtype) -> mx.Dtype:
    """The dtype in which a tensor is computed; integers (packed weights, shared exponents) stay what they are."""
    return dtype if mx.issubdtype(stored, mx.floating) else stored


def _refuse_foreign_quantisation(settings: Mapping[str, Any]) -> None:
    quantised = settings.get("quantization_config") or {}
    foreign = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
    if foreign or settings.get("quantize_activations"):
        raise UserError(
            f"The text encoder is quantised by {foreign or 'activation'}, which is not supported.",
            "Use the unquantised Gemma-3, or quantise it with mlx-lm.",
        )


def _text_tensors(weights: Mapping[str, Item]) -> dict[str, Item]:
    """Tensors of the text model, by their names inside it."""
    kept = {name: value for name, value in weights.items() if is_of_text_model(name)}
    embedding = f"{_EMBEDDING}weight"  # its name tells what the file puts in front of every tensor of the text model
    prefix = next((name.removesuffix(embedding) for name in kept if name.endswith(embedding)), "")
    return {name.removeprefix(prefix): value for name, value in kept.items()}


def _packing(layer: nn.Module, weights: Mapping[str, mx.array], name: str) -> dict[str, Any]:
    """How mlx-lm packed a layer, from the shapes it saved: each mode but affine allows one (bits, group) only."""
    width = layer.weight.shape[-1]
    scales, weight = weights[f"{name}.scales"], weights.get(f"{name}.weight")
    if weight is None or 0 in (scales.ndim, scales.size, weight.ndim, width):
        raise UserError(f"The text encoder's layer {name} is damaged.", AGAIN)
    group = width // scales.shape[-1]
    bits = weight.shape[-1] * 32 // width
    mode = {(4, 16): "nvfp4", (4, 32): "mxfp4", (8, 32): "mxfp8"}.get((bits, group), "")
    if scales.dtype != mx.uint8:
        mode = "affine"
    return {"group_size": group, "bits": bits, "mode": mode}
