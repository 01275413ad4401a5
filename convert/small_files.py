"""The files of a model directory that are not weights: configs, indexes, card, tokenizer, licences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlx_ltxw import __version__
from mlx_ltxw.weights.components import TEXT_ENCODER
from mlx_ltxw.weights.manifest import FileRecord

from .card import model_card
from .checkpoint import Checkpoint
from .gemma import LICENCES, TOKENIZER, TOKENIZER_EXTRAS
from .plan import ConversionPlan, index
from .quantize import Quantization
from .source import Source, TextSource

CARD = "README.md"
Hashes = dict[str, dict[str, FileRecord]]
"""Of the source files: role (`checkpoint`, `text_encoder`) -> file name -> size and sha256."""


def texts(
    name: str,
    source: Source,
    checkpoint: Checkpoint,
    text: TextSource,
    variant: str,
    quantization: Quantization | None,
    plan: ConversionPlan,
    hashes: Hashes,
) -> dict[str, str]:
    """The files that are written, by their path in the model directory; `name` is the directory's."""
    settings = quantization.settings if quantization else None
    config: dict[str, Any] = {
        "library_name": "mlx-ltxw",
        "library_version": __version__,
        "model_version": checkpoint.model_version,
        "variant": variant,
        "source": _origin(source, hashes["checkpoint"]),
        "text_encoder": _origin(text.source, hashes["text_encoder"]),
        "config": checkpoint.config,
    }
    gemma_config = dict(text.gemma.config)
    if settings:
        layers = {layer: how.settings for layer, how in plan.quantized("transformer").items()}
        config["quantization"] = {"transformer": {**settings, **layers}}
        gemma_config["quantization"] = {**settings, "model.embed_tokens": False}
    files = {
        "config.json": json_text(config),
        CARD: card(name, source, checkpoint, text, variant, quantization, plan),
        f"{TEXT_ENCODER}/config.json": json_text(gemma_config),
    }
    for component in plan.entries:
        stem = f"{TEXT_ENCODER}/model" if component == TEXT_ENCODER else component
        files[f"{stem}.safetensors.index.json"] = json_text(index(plan, component))
    if checkpoint.license:
        files["LICENSE"] = checkpoint.license
    return files


def card(
    name: str,
    source: Source,
    checkpoint: Checkpoint,
    text: TextSource,
    variant: str,
    quantization: Quantization | None,
    plan: ConversionPlan,
) -> str:
    """The model card; `name` is what `-m` takes: the directory, or the repository."""
    own = checkpoint.config.get("mlx_ltxw", {})
    titles = _title(source), _title(text.source)
    sizes = {
        component: (sum(len(entry.arrays) for entry in entries), sum(entry.nbytes for entry in entries))
        for component, entries in plan.entries.items()
    }
    return model_card(name, variant, checkpoint.model_version, *titles, quantization, own, sizes)


def copies(text: TextSource) -> dict[str, Path]:
    """The files that are taken as they are (tokenizer, Gemma's licence): path in the model directory -> source."""
    folder = text.gemma.folder
    names = [name for name in (*TOKENIZER, *TOKENIZER_EXTRAS, *LICENCES) if (folder / name).is_file()]
    return {f"{TEXT_ENCODER}/{name}": folder / name for name in names}


def json_text(value: Any) -> str:
    """JSON as it is written everywhere in a model directory."""
    return json.dumps(value, indent=1) + "\n"


def _origin(source: Source, hashes: dict[str, FileRecord]) -> dict[str, Any]:
    files = {name: {"size": record.size, "sha256": record.sha256} for name, record in hashes.items()}
    return {"repo": source.repo, "revision": source.revision, "files": files}


def _title(source: Source) -> str:
    names = ", ".join(f"`{path.name}`" for path in source.paths)
    return f"{names} of `{source.repo}` at `{source.revision}`" if source.repo else names
