"""The two small transformers between the text features and the cross-attentions.

Source: `text_encoders/gemma/embeddings_connector.py:Embeddings1DConnector`,
`embeddings_processor.py:EmbeddingsProcessor.create_embeddings` (1.2.0; 1.0.0 mixes up rows of unequal lengths).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.models import ops
from mlx_ltxw.models.config import DEEPEST, Section
from mlx_ltxw.models.transformer.attention import Attention
from mlx_ltxw.models.transformer.feed_forward import FeedForward
from mlx_ltxw.models.transformer.rope import Rope, split_rope

_EPS = 1e-6  # of every norm; the official connector has no setting for it
_THETA = 10000.0  # likewise: it does not read the transformer's `positional_embedding_theta`


@dataclass(frozen=True)
class ConnectorConfig:
    """One connector.

    Attributes:
        heads, head_dim: Their product is the width.
        layers: Transformer blocks.
        registers: Learnable vectors that fill the places of padding.
        max_position: Position that gets the rotary angle factor +1.
        gated: Whether attention heads are gated.
        ff_bias: Whether the feed-forward linears have biases.
    """

    heads: int
    head_dim: int
    layers: int
    registers: int
    max_position: float
    gated: bool
    ff_bias: bool

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True)
class ConnectorsConfig:
    """Both connectors."""

    video: ConnectorConfig
    audio: ConnectorConfig

    @classmethod
    def read(cls, section: dict[str, Any]) -> ConnectorsConfig:
        """Reads the connectors' keys of `config.transformer`.

        Source: `embeddings_connector.py`, both configurators.

        Raises:
            UserError: a key is missing or has a value that LTX-2.3 never has.
        """
        whole = Section(section, "transformer").values
        shared = ("rope_type", "frequencies_precision")  # the rest of the section is the transformer's
        values = Section({k: v for k, v in whole.items() if "connector" in k or k in shared}, "transformer")
        for key, value in (
            ("rope_type", "split"),
            ("frequencies_precision", "float64"),
            ("use_embeddings_connector", True),
            ("connector_norm_output", True),
        ):
            values.expect(key, value)
        video, audio = _connector(values, ""), _connector(values, "audio_")
        values.finish(ignored=("caption_proj_before_connector", "connector_learnable_registers_std"))
        return cls(video, audio)


def _connector(values: Section, prefix: str) -> ConnectorConfig:
    max_position, *more = values.counts("connector_positional_embedding_max_pos")
    if more:
        raise UserError(
            "The checkpoint's config gives its connectors several axes of positions.", "Use an LTX-2.3 checkpoint."
        )
    return ConnectorConfig(
        heads=values.count(f"{prefix}connector_num_attention_heads"),
        head_dim=values.count(f"{prefix}connector_attention_head_dim"),
        layers=values.count(f"{prefix}connector_num_layers", values.take("connector_num_layers"), most=DEEPEST),
        registers=values.count("connector_num_learnable_registers"),
        max_position=max_position,
        gated=values.flag("connector_apply_gated_attention"),
        ff_bias=values.flag("connector_ff_bias", True),
    )


class ConnectorBlock(nn.Module):
    """Self-attention and feed-forward, each behind a weightless norm and around a residual."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        dim = config.dim
        self.attn1 = Attention(dim, dim, config.heads, config.head_dim, _EPS, config.gated)
        self.ff = FeedForward(dim, 4 * dim, config.ff_bias)

    def __call__(self, x: mx.array, rope: Rope) -> mx.array:
        x = x + self.attn1(mx.fast.rms_norm(x, None, _EPS), rope=rope)
        return x + self.ff(mx.fast.rms_norm(x, None, _EPS))


class Connector(nn.Module):
    """One modality's connector. Every position attends to every other, registers included."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        self.learnable_registers = mx.zeros((config.registers, config.dim))
        self.transformer_1d_blocks = [ConnectorBlock(config) for _ in range(config.layers)]

    def __call__(self, features: mx.array, valid: mx.array) -> mx.array:
        """Fills up with registers and runs the blocks.

        Args:
            features: (B, S, dim), real tokens first.
            valid: (B, S) bool, true on real tokens.

        Returns:
            (B, S, dim), of rms 1.
        """
        length = features.shape[1]
        registers = self.learnable_registers[mx.arange(length) % self.config.registers]  # by place, (S, dim)
        x = mx.where(valid[..., None], features, registers.astype(features.dtype))
        rope, submissions = self._rope(length, x.dtype), ops.paced()
        for block in self.transformer_1d_blocks:
            x = block(x, rope)
            submissions.add(x)
        return mx.fast.rms_norm(x, None, _EPS)

    def _rope(self, length: int, dtype: mx.Dtype) -> Rope:
        places = np.arange(length, dtype=np.float32)[None, None]  # (1, one axis, S)
        config = self.config
        return split_rope(places, config.dim, config.heads, _THETA, (config.max_position,), dtype)


class Connectors(nn.Module):
    """Both connectors over the same prompt."""

    def __init__(self, config: ConnectorsConfig) -> None:
        super().__init__()
        self.config = config
        self.video_embeddings_connector = Connector(config.video)
        self.audio_embeddings_connector = Connector(config.audio)

    def __call__(self, video_features: mx.array, audio_features: mx.array, mask: mx.array) -> tuple[mx.array, mx.array]:
        """Text contexts of the transformer, which attends to all S places of them without a mask.

        Args:
            video_features: (B, S, video width).
            audio_features: (B, S, audio width).
            mask: (B, S), true on real tokens; on either side, and rows may differ in length.

        Returns:
            Video context (B, S, video width), audio context (B, S, audio width).
        """
        valid = mask.astype(mx.bool_)
        length = valid.shape[1]
        places = mx.arange(length)
        order = mx.argsort(mx.where(valid, places, places + length), axis=1)  # real tokens first, in their order
        valid = mx.take_along_axis(valid, order, axis=1)
        video = mx.take_along_axis(video_features, order[..., None], axis=1)
        audio = mx.take_along_axis(audio_features, order[..., None], axis=1)
        video = self.video_embeddings_connector(video, valid)
        (audio,) = mx.depends([audio], [video])  # not abreast: each holds the scores of 1024 places
        return video, self.audio_embeddings_connector(audio, valid)
