"""The text side: a word tokenizer, a small text model of Gemma 3's architecture, and the official extractor and
connectors run in batches (the connectors of ltx-core 1.0.0 take one prompt at a time)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

import tests.reference  # noqa: F401  the official code imports torchaudio: the stand-in first
from scripts.voice_model.config import (
    AUDIO_DIM,
    CONFIG,
    TEXT_DIM,
    TEXT_FF,
    TEXT_HEAD_DIM,
    TEXT_HEADS,
    TEXT_KV_HEADS,
    TEXT_LAYERS,
    VIDEO_DIM,
)
from scripts.voice_model.corpus import MANNERS, vocabulary

from ltx_core.model.transformer.rope import generate_freq_grid_np, precompute_freqs_cis
from ltx_core.text_encoders.gemma.embeddings_connector import (
    AudioEmbeddings1DConnectorConfigurator,
    Embeddings1DConnector,
    Embeddings1DConnectorConfigurator,
)
from ltx_core.text_encoders.gemma.feature_extractor import FeatureExtractorV2
from ltx_core.utils import rms_norm

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
WINDOW = 32  # longest caption in tokens during training


def tokenizer() -> Tokenizer:
    """Lower-cases, splits at spaces and at every sign, one token a word; unknown words become <unk>; BOS in front."""
    words = {word: index for index, word in enumerate((*SPECIAL, *vocabulary()))}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    made.add_special_tokens(list(SPECIAL))
    return made


def vocabulary_size() -> int:
    return (len(SPECIAL) + len(vocabulary()) + 15) // 16 * 16


class Norm(nn.Module):
    """Gemma's RMSNorm: the weight is kept as its distance from one."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class SelfAttention(nn.Module):
    def __init__(self, theta: float, factor: float) -> None:
        super().__init__()
        self.q_proj = nn.Linear(TEXT_DIM, TEXT_HEADS * TEXT_HEAD_DIM, bias=False)
        self.k_proj = nn.Linear(TEXT_DIM, TEXT_KV_HEADS * TEXT_HEAD_DIM, bias=False)
        self.v_proj = nn.Linear(TEXT_DIM, TEXT_KV_HEADS * TEXT_HEAD_DIM, bias=False)
        self.o_proj = nn.Linear(TEXT_HEADS * TEXT_HEAD_DIM, TEXT_DIM, bias=False)
        self.q_norm, self.k_norm = Norm(TEXT_HEAD_DIM), Norm(TEXT_HEAD_DIM)
        frequency = theta ** -(torch.arange(0, TEXT_HEAD_DIM, 2) / TEXT_HEAD_DIM) / factor
        self.register_buffer("frequency", frequency, persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[2], device=x.device)[:, None] * self.frequency  # (S, D / 2)
        cos, sin = angle.cos(), angle.sin()
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (-1, TEXT_HEAD_DIM)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = self.rotate(self.q_norm(q)), self.rotate(self.k_norm(k))
        k, v = (t.repeat_interleave(TEXT_HEADS // TEXT_KV_HEADS, dim=1) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=TEXT_HEAD_DIM**-0.5)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(TEXT_DIM, TEXT_FF, bias=False)
        self.up_proj = nn.Linear(TEXT_DIM, TEXT_FF, bias=False)
        self.down_proj = nn.Linear(TEXT_FF, TEXT_DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, index: int) -> None:
        super().__init__()
        full = (index + 1) % 2 == 0  # every second layer is global, as `sliding_window_pattern` 2 says
        self.self_attn = SelfAttention(1e6 if full else 1e4, 8.0 if full else 1.0)
        self.mlp = Mlp()
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            setattr(self, f"{name}_layernorm", Norm(TEXT_DIM))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x)))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class Gemma(nn.Module):
    """Parameter names as in HF's `Gemma3TextModel`. ids (B, S), padded on the right -> hidden (B, S, D, layers + 1).

    Rotary positions are relative and attention is causal, so real tokens come out the same as with left padding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary_size(), TEXT_DIM)
        nn.init.normal_(self.embed_tokens.weight, std=TEXT_DIM**-0.5)
        self.layers = nn.ModuleList(Layer(index) for index in range(TEXT_LAYERS))
        self.norm = Norm(TEXT_DIM)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids) * math.sqrt(TEXT_DIM)
        states = [x]
        for layer in self.layers:
            x = layer(x)
            states.append(x)
        return torch.stack([*states[:-1], self.norm(x)], dim=-1)


def connect(connector: Embeddings1DConnector, features: Tensor, lengths: Tensor, total: int) -> Tensor:
    """features (B, S, D) of right-padded captions -> context (B, total, D): registers fill the places after the text,
    register p mod 128 at place p, then the blocks over all places."""
    batch, window, _ = features.shape
    registers = connector.learnable_registers.float().repeat(total // len(connector.learnable_registers), 1)
    place = torch.arange(total, device=features.device)
    text = F.pad(features, (0, 0, 0, total - window))
    x = torch.where((place[None] < lengths[:, None])[..., None], text, registers[None])
    for block in connector.transformer_1d_blocks:
        x = block(x, pe=_rope(connector, batch, total, x.device))
    return rms_norm(x)


_ROPE: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}


def _rope(connector: Embeddings1DConnector, batch: int, total: int, device: torch.device) -> tuple[Tensor, Tensor]:
    key = (connector.inner_dim, batch, total)
    if key not in _ROPE:
        table = precompute_freqs_cis(
            torch.arange(total, dtype=torch.float32)[None, None],
            dim=connector.inner_dim,
            out_dtype=torch.float32,
            max_pos=connector.positional_embedding_max_pos,
            num_attention_heads=connector.num_attention_heads,
            rope_type=connector.rope_type,
            freq_grid_generator=generate_freq_grid_np,
        )
        _ROPE[key] = tuple(t.to(device).expand(batch, -1, -1, -1) for t in table)
    return _ROPE[key]


class TextPath(nn.Module):
    """Caption ids -> the two contexts that the transformer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.gemma = Gemma()
        flat = TEXT_DIM * (TEXT_LAYERS + 1)
        self.extractor = FeatureExtractorV2(nn.Linear(flat, VIDEO_DIM), TEXT_DIM, nn.Linear(flat, AUDIO_DIM))
        self.video_connector = Embeddings1DConnectorConfigurator.from_config(CONFIG)
        self.audio_connector = AudioEmbeddings1DConnectorConfigurator.from_config(CONFIG)
        for connector in (self.video_connector, self.audio_connector):
            connector.learnable_registers = nn.Parameter(connector.learnable_registers.detach().float())
        self.manner_head = nn.Linear(AUDIO_DIM, len(MANNERS), bias=False)  # not in the checkpoint

    def forward(self, ids: Tensor, lengths: Tensor, total: int) -> tuple[Tensor, Tensor]:
        """ids (B, S), lengths (B,) -> contexts (B, total, 80) and (B, total, 160)."""
        mask = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
        video, audio = self.extractor(self.gemma(ids), mask)
        return (
            connect(self.video_connector, video, lengths, total),
            connect(self.audio_connector, audio, lengths, total),
        )


def manner_loss(head: nn.Linear, context: Tensor, lengths: Tensor, manner: Tensor) -> Tensor:
    """How well every place of the audio's context (B, S, 160) tells the caption's manner (B,): cross entropy over the
    cosines to one direction a manner, so that it takes up a fair share of the context.

    A large text encoder knows from its own training what `whispering` is; this small one would forget it, since no
    clip of the base depends on it, and an adapter would then have only one faint token in 1024 to go by.
    """
    cosines = F.normalize(context, dim=-1) @ F.normalize(head.weight, dim=-1).T  # (B, S, manners)
    target = torch.where(lengths > 1, manner, -100)[:, None].expand(cosines.shape[:2])
    return F.cross_entropy(16 * cosines.flatten(0, 1), target.flatten())


def gemma_config() -> dict[str, Any]:
    """`config.json` of the text encoder, readable by transformers and by mlx-lm."""
    text = {
        "model_type": "gemma3_text",
        "hidden_size": TEXT_DIM,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": TEXT_HEADS,
        "num_key_value_heads": TEXT_KV_HEADS,
        "head_dim": TEXT_HEAD_DIM,
        "intermediate_size": TEXT_FF,
        "vocab_size": vocabulary_size(),
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "query_pre_attn_scalar": TEXT_HEAD_DIM,
        "sliding_window": 1024,
        "sliding_window_pattern": 2,
        "layer_types": ["sliding_attention", "full_attention"] * (TEXT_LAYERS // 2),
        "max_position_embeddings": 131072,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": text,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "torch_dtype": "bfloat16",
    }


def write_gemma(folder: Path, gemma: Gemma) -> None:
    """The HF layout: config.json, model.safetensors with `language_model.model.` keys, the tokenizer's files."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"language_model.model.{k}": v.to(torch.bfloat16).contiguous() for k, v in gemma.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(gemma_config(), indent=2) + "\n")
    tokenizer().save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left", "model_max_length": 1024, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")
