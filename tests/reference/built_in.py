"""The model that ships with the package, put back into the official modules: its PyTorch form is not shipped."""

from __future__ import annotations

import json
from functools import cache

import mlx.core as mx
import numpy as np
import torch

from mlx_ltxw.convert.layout import DIFFUSION, axes
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from tests.reference.official import Official
from tests.reference.pipeline import PROMPT_TOKENS

from ltx_core.text_encoders.gemma.encoders.base_encoder import GemmaTextEncoder
from ltx_core.text_encoders.gemma.tokenizer import LTXVGemmaTokenizer

PREFIXES = {
    "transformer": DIFFUSION,
    "connectors": DIFFUSION,
    "text_projection": "text_embedding_projection.",
    "video_vae": "vae.",
    "audio_vae": "audio_vae.",
    "vocoder": "vocoder.",
}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
          "image_size": 28, "patch_size": 14}  # fmt: skip


def _tensors(pattern: str) -> dict[str, np.ndarray]:
    found = {}
    for file in sorted(BUILTIN_MODEL.glob(pattern)):
        for name, value in mx.load(str(file)).items():
            found[name] = np.array(value.astype(mx.float32))
    return found


@cache
def official_model() -> Official:
    """Every tensor under its official name, in PyTorch's layout."""
    state = {}
    for component, prefix in PREFIXES.items():
        for name, value in _tensors(f"{component}*.safetensors").items():
            moved = axes(component, prefix + name, value.ndim)
            restored = value if moved is None else value.transpose(np.argsort(moved))
            state[prefix + name] = torch.from_numpy(np.ascontiguousarray(restored)).reshape(restored.shape)
    config = json.loads((BUILTIN_MODEL / "config.json").read_text())["config"]
    return Official(config, state)


@cache
def gemma() -> GemmaTextEncoder:
    """The text encoder in `transformers`' own class; its vision tower, which nothing here uses, is a stump."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    folder = BUILTIN_MODEL / "text_encoder"
    text = json.loads((folder / "config.json").read_text())
    text["rope_parameters"] = {  # transformers 5 takes the older keys for unscaled
        "full_attention": {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta")},
        "sliding_attention": {"rope_type": "default", "rope_theta": text.pop("rope_local_base_freq")},
    }
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=VISION)).eval()
    weights = {
        name.split("model.", 1)[-1]: torch.from_numpy(x) for name, x in _tensors("text_encoder/*.safetensors").items()
    }
    result = model.model.language_model.load_state_dict(weights, strict=True)
    assert not result.missing_keys
    return GemmaTextEncoder(model, LTXVGemmaTokenizer(str(folder), PROMPT_TOKENS), dtype=torch.float32)
