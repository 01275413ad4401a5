"""A made model whose weights are most of what a short clip takes, and adapters of it."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import mlx.core as mx

from mlx_ltxw.adapter.names import WHISPER_MODULES
from mlx_ltxw.models.transformer import Transformer
from mlx_ltxw.tree import linears
from mlx_ltxw.weights.model_dir import ModelDir
from scripts import random_dir

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def wide_model(folder: Path, width: int, layers: int, bits: int | None = None) -> ModelDir:
    """Of random weights; the audio half as wide as the video. Made unless it is there."""
    out = folder / f"{width} {layers} {bits or 16}"
    if not out.exists():
        beside = None if bits is None else wide_model(folder, width, layers).path
        changes = {"num_layers": layers}
        for prefix, wide in (("", width), ("audio_", width // 2)):
            changes |= {f"{prefix}num_attention_heads": 8, f"{prefix}attention_head_dim": wide // 8}
            changes |= {f"{prefix}connector_num_attention_heads": 8, f"{prefix}connector_attention_head_dim": wide // 8}
            changes[f"{prefix}cross_attention_dim"] = wide
        with mock.patch.object(random_dir, "POOL", 1 << 14):  # numbers may come again
            random_dir.make_dir(out, "tiny", bits, beside, **{f"transformer__{path}": n for path, n in changes.items()})
    return ModelDir.open(out)


def block_adapter(folder: Path, model: ModelDir, audio: bool = False, seed: int = 0) -> str:
    """A LoRA of all linears of all blocks, or of those of the whisper adapter; its file, made unless it is there."""
    path = folder / f"{model.path.name.replace(' ', '_')}_{audio}_{seed}.safetensors"
    if path.exists():
        return str(path)
    tensors = {}
    found = linears(Transformer(model.network_config("transformer"))).items()
    for number, (name, linear) in enumerate(item for item in found if item[0].startswith("transformer_blocks.")):
        _, _, module, *rest = name.split(".")
        if not audio or (module in WHISPER_MODULES and ".".join(rest) in ATTENTION):
            out, into = linear.weight.shape
            for half, shape in (("A", (8, into)), ("B", (out, 8))):
                drawn = mx.random.normal(shape, key=mx.random.key(100 * number + seed))
                tensors[f"diffusion_model.{name}.lora_{half}.weight"] = drawn * 0.5 * shape[1] ** -0.5
    mx.save_safetensors(str(path), tensors)
    return str(path)
