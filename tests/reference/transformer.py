"""The official transformer (ltx-core 1.0.0), with the audio-video timesteps of the newest release (1.2.0).

1.0.0 embeds the *other* modality's sigma for the audio-video scale and shift; 1.2.0 embeds a stream's own timesteps
there and keeps the other's sigma for the gate alone. `newest_release=False` leaves 1.0.0 as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

import tests.reference  # noqa: F401

from ltx_core.guidance.perturbations import (
    BatchedPerturbationConfig,
    Perturbation,
    PerturbationConfig,
    PerturbationType,
)
from ltx_core.model.transformer.modality import Modality
from ltx_core.model.transformer.model import LTXModel
from ltx_core.model.transformer.model_configurator import LTXModelConfigurator
from ltx_core.model.transformer.transformer_args import MultiModalTransformerArgsPreprocessor


class NewestPreprocessor:
    """Wraps a 1.0.0 preprocessor; only the scale and shift timesteps differ."""

    def __init__(self, inner: MultiModalTransformerArgsPreprocessor) -> None:
        self.inner = inner

    def prepare(self, modality: Modality, cross_modality: Modality | None = None) -> Any:
        args = self.inner.prepare(modality, cross_modality)
        if cross_modality is None:
            return args
        own = modality.timesteps.flatten() * self.inner.simple_preprocessor.timestep_scale_multiplier
        embedded, _ = self.inner.cross_scale_shift_adaln(own, hidden_dtype=modality.latent.dtype)
        return replace(args, cross_scale_shift_timestep=embedded.view(args.x.shape[0], -1, embedded.shape[-1]))


def small_config(layers: int = 2, heads: int = 4, video_head_dim: int = 20, audio_head_dim: int = 8) -> dict[str, Any]:
    """A `transformer` section with every feature of LTX-2.3; the video width (80) does not divide by its three axes."""
    video, audio = heads * video_head_dim, heads * audio_head_dim
    return {
        "_class_name": "AVTransformer3DModel", "activation_fn": "gelu-approximate", "attention_bias": True,
        "attention_head_dim": video_head_dim, "attention_type": "default", "cross_attention_dim": video,
        "dropout": 0.0, "double_self_attention": False, "in_channels": 12, "norm_elementwise_affine": False,
        "norm_eps": 1e-6, "num_attention_heads": heads, "num_embeds_ada_norm": 1000, "num_layers": layers,
        "num_vector_embeds": None, "only_cross_attention": False, "cross_attention_norm": True, "out_channels": 12,
        "upcast_attention": False, "use_linear_projection": False, "qk_norm": "rms_norm",
        "standardization_norm": "rms_norm", "positional_embedding_type": "rope", "positional_embedding_theta": 10000.0,
        "positional_embedding_max_pos": [20, 2048, 2048], "timestep_scale_multiplier": 1000,
        "av_ca_timestep_scale_multiplier": 1000.0, "causal_temporal_positioning": True,
        "audio_num_attention_heads": heads, "audio_attention_head_dim": audio_head_dim, "audio_in_channels": 10,
        "audio_out_channels": 10, "audio_cross_attention_dim": audio, "audio_positional_embedding_max_pos": [20],
        "use_audio_video_cross_attention": True, "share_ff": False, "av_cross_ada_norm": True,
        "use_middle_indices_grid": True, "apply_gated_attention": True, "cross_attention_adaln": True,
        "caption_projection_first_linear": False, "caption_projection_second_linear": False,
        "caption_proj_input_norm": False, "caption_proj_before_connector": True, "rope_type": "split",
        "frequencies_precision": "float64",
    }  # fmt: skip


def configured(section: dict[str, Any]) -> LTXModel:
    """The official model as 1.0.0 builds it from a `transformer` section; its weights are not set."""
    return LTXModelConfigurator.from_config({"transformer": section})


def newest(model: LTXModel) -> LTXModel:
    """The same model with the audio-video timesteps of 1.2.0."""
    model.video_args_preprocessor = NewestPreprocessor(model.video_args_preprocessor)
    model.audio_args_preprocessor = NewestPreprocessor(model.audio_args_preprocessor)
    return model


def build(section: dict[str, Any], seed: int = 0, newest_release: bool = True) -> LTXModel:
    """The official model with random weights of sensible scale, fp32, on the CPU."""
    model = configured(section)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.ndim == 1 or "table" in name else parameter.shape[-1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            if name.endswith("norm.weight"):
                parameter.add_(1.0)
    return (newest(model) if newest_release else model).eval()


def modality(arrays: dict[str, np.ndarray]) -> Modality:
    """From NumPy: latent (B,T,C), sigma (B,), timesteps (B,1|T), positions (B,axes,T,2), context (B,S,D)."""
    return Modality(**{name: torch.from_numpy(value) for name, value in arrays.items()})


def perturbations(batch: int, skips: dict[str, list[int] | None]) -> BatchedPerturbationConfig:
    """One configuration for every sample: `PerturbationType` name -> blocks (None: all)."""
    items = [Perturbation(type=PerturbationType[name], blocks=blocks) for name, blocks in skips.items()]
    return BatchedPerturbationConfig([PerturbationConfig(items)] * batch)


def build_audio_only(joint: LTXModel, section: dict[str, Any]) -> LTXModel:
    """The official audio-only model with the weights of `joint`, chosen by the official loader's rule."""
    from ltx_core.model.transformer.model import LTXModelType
    from ltx_core.model.transformer.rope import LTXRopeType

    model = LTXModel(
        model_type=LTXModelType.AudioOnly,
        num_layers=section["num_layers"],
        norm_eps=section["norm_eps"],
        audio_num_attention_heads=section["audio_num_attention_heads"],
        audio_attention_head_dim=section["audio_attention_head_dim"],
        audio_in_channels=section["audio_in_channels"],
        audio_out_channels=section["audio_out_channels"],
        audio_cross_attention_dim=section["audio_cross_attention_dim"],
        audio_positional_embedding_max_pos=section["audio_positional_embedding_max_pos"],
        rope_type=LTXRopeType.SPLIT,
        double_precision_rope=True,
        apply_gated_attention=True,
        cross_attention_adaln=True,
    )
    state = joint.state_dict()
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return model.eval()
