"""The transformer's numbers, all read from the checkpoint's own config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.config import DEEPEST, Section

_FIXED: dict[str, Any] = {
    "_class_name": "AVTransformer3DModel",
    "dropout": 0.0,
    "attention_bias": True,
    "num_vector_embeds": None,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "use_linear_projection": False,
    "only_cross_attention": False,
    "cross_attention_norm": True,
    "double_self_attention": False,
    "upcast_attention": False,
    "standardization_norm": "rms_norm",
    "norm_elementwise_affine": False,
    "qk_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "use_audio_video_cross_attention": True,
    "share_ff": False,
    "av_cross_ada_norm": True,
    "use_middle_indices_grid": True,
    "rope_type": "split",
    "frequencies_precision": "float64",
    "apply_gated_attention": True,
    "cross_attention_adaln": True,
    "causal_temporal_positioning": True,
    "use_prompt_adaln_single": True,
}
"""What LTX-2.3 sets and this port implements; any other value is refused (`LTXModelConfigurator`)."""

_ELSEWHERE = (
    "attention_type",
    "norm_num_groups",
    "caption_channels",
    "caption_projection_first_linear",
    "caption_projection_second_linear",
    "caption_proj_input_norm",
    "caption_proj_before_connector",
    "text_encoder_norm_type",
    "use_embeddings_connector",
)
"""Keys of the section that other components read, or that the official loader never reads."""


@dataclass(frozen=True)
class StreamConfig:
    """One modality's half of the transformer.

    Attributes:
        in_channels, out_channels: Width of a latent token.
        heads, head_dim: Of the self- and text attention; their product is the stream's width.
        context_dim: Width of the text context.
        max_positions: One scale a position axis, in seconds and pixels.
        ff_bias: Whether the feed-forward linears have biases.
    """

    in_channels: int
    out_channels: int
    heads: int
    head_dim: int
    context_dim: int
    max_positions: tuple[float, ...]
    ff_bias: bool

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True)
class TransformerConfig:
    """The audio-video transformer.

    Attributes:
        layers: Transformer blocks.
        video, audio: The two streams.
        cross_dim: Width of the audio-video attentions (`audio_cross_attention_dim`).
        eps: Added to the mean square in every norm.
        theta: Base of the rotary frequencies.
        timestep_scale: Multiplies sigma before the sinusoid.
        gate_timestep_scale: The same for the audio-video gates.
    """

    layers: int
    video: StreamConfig
    audio: StreamConfig
    cross_dim: int
    eps: float
    theta: float
    timestep_scale: float
    gate_timestep_scale: float

    @classmethod
    def read(cls, section: dict[str, Any]) -> TransformerConfig:
        """Reads `config.transformer`. Source: `transformer/model_configurator.py:LTXModelConfigurator.from_metadata`.

        Raises:
            UserError: a key is missing or has a value that LTX-2.3 never has.
        """
        values = Section(section, "transformer")
        _refuse_other_generations(section)
        for key, value in _FIXED.items():
            values.expect(key, value)
        config = cls(
            layers=values.count("num_layers", most=DEEPEST),
            video=_stream(values, "", "attention_head_dim", "num_attention_heads", "cross_attention_dim"),
            audio=_stream(
                values, "audio_", "audio_attention_head_dim", "audio_num_attention_heads", "audio_cross_attention_dim"
            ),
            cross_dim=values.count("audio_cross_attention_dim"),
            eps=values.number("norm_eps"),
            theta=values.number("positional_embedding_theta"),
            timestep_scale=values.number("timestep_scale_multiplier"),
            gate_timestep_scale=values.number("av_ca_timestep_scale_multiplier"),
        )
        connectors = tuple(key for key in section if "connector" in key)
        values.finish(ignored=_ELSEWHERE + connectors)
        if config.video.heads != config.audio.heads:
            raise UserError(
                f"The config has {config.video.heads} video heads and {config.audio.heads} audio heads.",
                "LTX-2.3 needs the same number in both streams; use its own checkpoint.",
            )
        return config


def _stream(values: Section, prefix: str, head_dim: str, heads: str, context: str) -> StreamConfig:
    return StreamConfig(
        in_channels=values.count(f"{prefix}in_channels", 128) if prefix else values.count("in_channels"),
        out_channels=values.count(f"{prefix}out_channels"),
        heads=values.count(heads),
        head_dim=values.count(head_dim),
        context_dim=values.count(context),
        max_positions=values.counts(f"{prefix}positional_embedding_max_pos"),
        ff_bias=values.flag(f"{prefix}ff_bias", True),
    )


def _refuse_other_generations(section: dict[str, Any]) -> None:
    """LTX-2 19B has no gates and no text modulation; LTX-2.5 drops biases and adds a keyframe embedding."""
    if section.get("use_keyframes_abs_pos_embedding") or section.get("ff_bias") is False:
        raise UserError("This is an LTX-2.5 checkpoint.", "mlx-ltxw runs LTX-2.3; use an LTX-2.3 checkpoint.")
    if section.get("num_layers") and not section.get("cross_attention_adaln"):
        raise UserError("This is an LTX-2 (19B) checkpoint.", "mlx-ltxw runs LTX-2.3; use an LTX-2.3 checkpoint.")
