"""Tiny Gemma-3 folders, and the official and transformers classes that read them: the oracles of the text path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import Gemma3Config, Gemma3TextConfig, Gemma3TextModel, PreTrainedTokenizerFast
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

from tests.reference.weights import randomise

from ltx_core.text_encoders.gemma.embeddings_connector import (
    AudioEmbeddings1DConnectorConfigurator,
    Embeddings1DConnectorConfigurator,
)
from ltx_core.text_encoders.gemma.embeddings_processor import EmbeddingsProcessor, convert_to_additive_mask
from ltx_core.text_encoders.gemma.feature_extractor import FeatureExtractorV2

VOCAB = 512
TINY: dict[str, Any] = {
    "model_type": "gemma3_text",
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "num_hidden_layers": 5,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "sliding_window_pattern": 2,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}
"""Every number differs from every default; the window is shorter than the prompts, and both kinds of layer occur."""

_BESIDE: dict[str, tuple[str, ...]] = {
    "": (),
    "model.": ("lm_head.weight",),
    "language_model.model.": (
        "language_model.lm_head.weight",
        "vision_tower.vision_model.post_layernorm.weight",
        "multi_modal_projector.mm_soft_emb_norm.weight",
    ),
    "model.language_model.": (
        "lm_head.weight",
        "model.vision_tower.post_layernorm.weight",
        "model.multi_modal_projector.mm_soft_emb_norm.weight",
    ),
}
"""What the known layouts carry beside the text model: the plain one, Google's, and transformers 5's."""


def gemma(config: dict[str, Any] = TINY, seed: int = 0, dtype: torch.dtype = torch.float32) -> Gemma3TextModel:
    """transformers' Gemma-3 with random weights: norms away from zero, activations near unit size."""
    model = Gemma3TextModel(Gemma3TextConfig(**config)).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = noise / parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 0.3 * noise
    return model.to(dtype)


@torch.no_grad()
def gemma_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """transformers' Gemma-3 norm, whose weight is stored around zero."""
    norm = Gemma3RMSNorm(len(weight), eps=1e-6)
    norm.weight.data = weight
    return norm(x)


@torch.no_grad()
def hidden_states(model: Gemma3TextModel, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(B, S) padded ids and mask -> (B, S, D, L) fp32."""
    out = model(
        input_ids=torch.from_numpy(ids).long(),
        attention_mask=torch.from_numpy(mask).long(),
        output_hidden_states=True,
        use_cache=False,
    )
    return torch.stack(out.hidden_states, dim=-1).float().numpy()


def write_gemma(
    folder: Path, model: Gemma3TextModel, config: dict[str, Any] = TINY, prefix: str = "model.", shards: int = 1
) -> Path:
    """Writes `config.json` and the weights, each name behind `prefix`, beside what a whole checkpoint carries along."""
    arrays = {f"{prefix}{name}": mx.array(value.float().numpy()) for name, value in model.state_dict().items()}
    for extra in _BESIDE[prefix]:
        arrays[extra] = mx.zeros((2,))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(arrays)
    for i in range(shards):
        part = {name: arrays[name] for name in names[i::shards]}
        mx.save_safetensors(str(folder / f"model-{i + 1:05d}-of-{shards:05d}.safetensors"), part)
    return folder


def save_again(folder: Path, config: dict[str, Any]) -> None:
    """Writes a config as transformers 5 does: `rope_parameters` and `layer_types` instead of the older keys."""
    text = Gemma3TextConfig(**config.get("text_config", config))
    (Gemma3Config(text_config=text) if "text_config" in config else text).save_pretrained(folder)


def gemma_tokenizer(post_processor: bool = True) -> Tokenizer:
    """A small trained tokenizer of Gemma's kind: BPE on `▁`, byte fallback, `<pad> <eos> <bos> <unk>`."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>"]
    base = [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]
    text = ['a woman in dim light, (woman, whispering): "close your eyes"', "a man speaking softly by the window"]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(vocab_size=340, special_tokens=base))
    trained = json.loads(tokenizer.to_str())
    trained["added_tokens"] = [token for token in trained["added_tokens"] if token["content"] in specials]
    tokenizer = Tokenizer.from_str(json.dumps(trained))  # byte tokens are plain entries of the vocabulary
    if post_processor:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
        )
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer | None = None, **settings: Any) -> Path:
    """Writes `tokenizer.json` and `tokenizer_config.json`; a setting of None is left out."""
    known = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>", **settings}
    folder.mkdir(parents=True, exist_ok=True)
    (tokenizer or gemma_tokenizer()).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in known.items() if v is not None}))
    return folder


def official_tokens(folder: Path, prompt: str, length: int = 1024) -> tuple[list[int], list[int]]:
    """Ids and mask as the official 1.2.0 encoder makes them (`gemma_assets.py`, `tokenizer.py`), with transformers."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(folder / "tokenizer.json")),
        model_max_length=length,
        **{k: AddedToken(v["content"]) if isinstance(v, dict) else v for k, v in settings.items()},
    )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    ids = tokenizer(prompt.strip(), truncation=True, max_length=length).input_ids
    if not ids or ids[0] != tokenizer.bos_token_id:
        ids = [tokenizer.bos_token_id, *ids][:length]
    padded = tokenizer.pad({"input_ids": [ids]}, padding="max_length", max_length=length, return_attention_mask=True)
    return padded["input_ids"][0], padded["attention_mask"][0]


@torch.no_grad()
def features(hidden: np.ndarray, mask: np.ndarray, extractor: FeatureExtractorV2) -> tuple[np.ndarray, np.ndarray]:
    """(B, S, D, L) hidden states through the official extractor."""
    video, audio = extractor(torch.from_numpy(hidden), torch.from_numpy(mask))
    return video.numpy(), audio.numpy()


def official_extractor(width: int, states: int, video_width: int, audio_width: int) -> FeatureExtractorV2:
    """The official extractor with random weights."""
    return randomise(
        FeatureExtractorV2(
            video_aggregate_embed=torch.nn.Linear(width * states, video_width),
            embedding_dim=width,
            audio_aggregate_embed=torch.nn.Linear(width * states, audio_width),
        )
    )


class OfficialConnectors(torch.nn.Module):
    """Both official connectors, under the checkpoint's names."""

    def __init__(self, section: dict[str, Any]) -> None:
        super().__init__()
        config = {"transformer": section}
        self.video_embeddings_connector = Embeddings1DConnectorConfigurator.from_config(config).float()
        self.audio_embeddings_connector = AudioEmbeddings1DConnectorConfigurator.from_config(config).float()

    @torch.no_grad()
    def forward(self, video: np.ndarray, audio: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One prompt at a time, padded on the left: 1.0.0 mixes up the rows of a batch whose lengths differ."""
        rows = []
        for row in range(len(mask)):
            additive = convert_to_additive_mask(torch.from_numpy(mask[row : row + 1]), torch.float32)
            processor = EmbeddingsProcessor(
                video_connector=self.video_embeddings_connector, audio_connector=self.audio_embeddings_connector
            )
            inputs = (torch.from_numpy(x[row : row + 1]) for x in (video, audio))
            rows.append([x.numpy() for x in processor.create_embeddings(*inputs, additive)[:2]])
        return tuple(np.concatenate(side) for side in zip(*rows, strict=True))
