"""Gemma's hidden states to one feature vector a token and modality.

Source: `text_encoders/gemma/feature_extractor.py:FeatureExtractorV2`, `norm_and_concat_per_token_rms`;
`encoders/encoder_configurator.py:_create_feature_extractor`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.config import Section

_EPS = 1e-6
_SECOND_GENERATION = {
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_proj_input_norm": False,
    "caption_projection_second_linear": False,
}
"""What tells LTX-2.3's extractor from LTX-2's; the official loader takes all four with these values, or none."""


@dataclass(frozen=True)
class FeatureExtractorConfig:
    """The two projections.

    Attributes:
        text_width: Width of one hidden state (Gemma's `hidden_size`).
        text_states: Hidden states a token has (Gemma's layers + 1).
        video_width, audio_width: Widths of the features, those of the transformer's two streams.
    """

    text_width: int
    text_states: int
    video_width: int
    audio_width: int

    @classmethod
    def read(cls, section: dict[str, Any], text_width: int, text_states: int) -> FeatureExtractorConfig:
        """Reads `config.transformer`; the text encoder's numbers come from its own config (`GemmaConfig`).

        Raises:
            UserError: the checkpoint is an LTX-2 (19B), or its caption settings are ones this port does not know.
        """
        values = Section(section, "transformer")
        if not _SECOND_GENERATION.keys() & section.keys():
            raise UserError(
                "This is an LTX-2 (19B) checkpoint: its text projection lies inside the transformer.",
                "mlx-ltxw runs LTX-2.3; use an LTX-2.3 checkpoint.",
            )
        for key, value in _SECOND_GENERATION.items():
            values.take(key)
            values.expect(key, value)
        values.expect("text_encoder_norm_type", "per_token_rms", "PER_TOKEN_RMS")
        return cls(
            text_width=text_width,
            text_states=text_states,
            video_width=values.count("num_attention_heads") * values.count("attention_head_dim"),
            audio_width=values.count("audio_num_attention_heads") * values.count("audio_attention_head_dim"),
        )


class FeatureExtractor(nn.Module):
    """Normalises each hidden state of each token, lays them side by side, and projects them twice."""

    def __init__(self, config: FeatureExtractorConfig) -> None:
        super().__init__()
        self.config = config
        flat = config.text_width * config.text_states
        self.video_aggregate_embed = nn.Linear(flat, config.video_width)
        self.audio_aggregate_embed = nn.Linear(flat, config.audio_width)

    def __call__(self, hidden: mx.array, mask: mx.array) -> tuple[mx.array, mx.array]:
        """Features of every token; those of padding are the projections' biases.

        Args:
            hidden: (B, S, D, L) hidden states; what padding holds does not matter.
            mask: (B, S), true on real tokens.

        Returns:
            Video features (B, S, video_width), audio features (B, S, audio_width), in the dtype of `hidden`.
        """
        states = mx.fast.rms_norm(hidden.swapaxes(2, 3), None, _EPS)  # (B, S, L, D), each state of its own rms 1
        flat = states.swapaxes(2, 3).flatten(2)  # (B, S, D * L), index d * L + l
        flat = mx.where(mask.astype(mx.bool_)[..., None], flat, mx.zeros((), flat.dtype))
        video = self.video_aggregate_embed(flat * math.sqrt(self.config.video_width / self.config.text_width))
        (flat,) = mx.depends([flat], [video])  # one after the other: each holds all states once more
        audio = self.audio_aggregate_embed(flat * math.sqrt(self.config.audio_width / self.config.text_width))
        return video, audio
