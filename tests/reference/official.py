"""The official modules with the weights of a checkpoint file, fp32, loaded with the official renaming rules."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

import tests.reference  # noqa: F401
from tests.reference.transformer import NewestPreprocessor, build_audio_only

from ltx_core.loader.sd_ops import SDOps
from ltx_core.model.audio_vae.audio_vae import AudioDecoder, AudioEncoder
from ltx_core.model.audio_vae.model_configurator import (
    AUDIO_VAE_DECODER_COMFY_KEYS_FILTER,
    AUDIO_VAE_ENCODER_COMFY_KEYS_FILTER,
    VOCODER_COMFY_KEYS_FILTER,
    AudioDecoderConfigurator,
    AudioEncoderConfigurator,
    VocoderConfigurator,
)
from ltx_core.model.audio_vae.vocoder import VocoderWithBWE
from ltx_core.model.transformer.model import LTXModel
from ltx_core.model.transformer.model_configurator import LTXV_MODEL_COMFY_RENAMING_MAP, LTXModelConfigurator
from ltx_core.model.video_vae.model_configurator import (
    VAE_DECODER_COMFY_KEYS_FILTER,
    VAE_ENCODER_COMFY_KEYS_FILTER,
    VideoDecoderConfigurator,
    VideoEncoderConfigurator,
)
from ltx_core.model.video_vae.video_vae import VideoDecoder, VideoEncoder
from ltx_core.text_encoders.gemma.embeddings_connector import (
    AudioEmbeddings1DConnectorConfigurator,
    Embeddings1DConnectorConfigurator,
)
from ltx_core.text_encoders.gemma.embeddings_processor import EmbeddingsProcessor
from ltx_core.text_encoders.gemma.feature_extractor import FeatureExtractorV2

# What 1.2.0's audio-only loader keeps: keys with one of these in them.
AUDIO_ONLY_PARTS = (
    "audio_attn1", "audio_attn2", "audio_ff", "audio_patchify", "audio_proj_out", "audio_adaln_single", "audio_prompt",
    "audio_scale_shift_table",
)  # fmt: skip
CONNECTORS = ("video_embeddings_connector.", "audio_embeddings_connector.")


@dataclass
class Official:
    """A checkpoint's official modules, each built when first asked for.

    Attributes:
        config: The checkpoint's `config`.
        state: Every tensor in fp32 under its key in the file.
        contexts: Text contexts already made, by prompt.
    """

    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    contexts: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Official:
        """Reads the file."""
        with safe_open(path, "pt") as file:
            config = json.loads(file.metadata()["config"])
            return cls(config, {name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118

    @cached_property
    def transformer(self) -> LTXModel:
        """Joint audio and video, with the audio-video timesteps of 1.2.0."""
        model = self._load(LTXModelConfigurator.from_config(self.config), LTXV_MODEL_COMFY_RENAMING_MAP, CONNECTORS)
        model.video_args_preprocessor = NewestPreprocessor(model.video_args_preprocessor)
        model.audio_args_preprocessor = NewestPreprocessor(model.audio_args_preprocessor)
        return model

    @cached_property
    def audio_transformer(self) -> LTXModel:
        """The audio-only model, from nothing but the keys that 1.2.0's audio-only loader keeps."""
        model = build_audio_only(self.transformer, self.config["transformer"])
        prefix = "model.diffusion_model."
        kept = {
            name.removeprefix(prefix): tensor
            for name, tensor in self.state.items()
            if name.startswith(prefix) and any(part in name for part in AUDIO_ONLY_PARTS)
        }
        model.load_state_dict(kept)
        return model.eval()

    @cached_property
    def embeddings(self) -> EmbeddingsProcessor:
        """Feature extractor and both connectors."""
        weights = [
            self.state[f"text_embedding_projection.{side}_aggregate_embed.weight"] for side in ("video", "audio")
        ]
        (video_width, features), (audio_width, _) = (weight.shape for weight in weights)
        extractor = FeatureExtractorV2(
            torch.nn.Linear(features, video_width),
            self.config["transformer"]["caption_channels"],
            torch.nn.Linear(features, audio_width),
        )
        model = EmbeddingsProcessor(
            feature_extractor=extractor,
            video_connector=Embeddings1DConnectorConfigurator.from_config(self.config).float(),
            audio_connector=AudioEmbeddings1DConnectorConfigurator.from_config(self.config).float(),
        )
        rules = (
            SDOps("text")
            .with_matching(prefix="text_embedding_projection.")
            .with_matching(prefix="model.diffusion_model.video_embeddings_connector.")
            .with_matching(prefix="model.diffusion_model.audio_embeddings_connector.")
            .with_replacement("text_embedding_projection.", "feature_extractor.")
            .with_replacement("model.diffusion_model.video_embeddings_connector.", "video_connector.")
            .with_replacement("model.diffusion_model.audio_embeddings_connector.", "audio_connector.")
        )
        return self._load(model, rules)

    @cached_property
    def video_encoder(self) -> VideoEncoder:
        return self._load(VideoEncoderConfigurator.from_config(self.config), VAE_ENCODER_COMFY_KEYS_FILTER)

    @cached_property
    def video_decoder(self) -> VideoDecoder:
        return self._load(VideoDecoderConfigurator.from_config(self.config), VAE_DECODER_COMFY_KEYS_FILTER)

    @cached_property
    def audio_encoder(self) -> AudioEncoder:
        return self._load(AudioEncoderConfigurator.from_config(self.config), AUDIO_VAE_ENCODER_COMFY_KEYS_FILTER)

    @cached_property
    def audio_decoder(self) -> AudioDecoder:
        return self._load(AudioDecoderConfigurator.from_config(self.config), AUDIO_VAE_DECODER_COMFY_KEYS_FILTER)

    @cached_property
    def vocoder(self) -> VocoderWithBWE:
        return self._load(VocoderConfigurator.from_config(self.config), VOCODER_COMFY_KEYS_FILTER)

    def _load(self, module: Any, rules: SDOps, others: tuple[str, ...] = ()) -> Any:
        """Loads what the official rules keep of the file; every key is used and every tensor is filled.

        Args:
            others: Prefixes of keys the rules let through that belong to another module.
        """
        state = {}
        for name, tensor in self.state.items():
            renamed = rules.apply_to_key(name)
            if renamed is not None and not renamed.startswith(others or ("\0",)):
                state |= {result.new_key: result.new_value for result in rules.apply_to_key_value(renamed, tensor)}
        module.load_state_dict(state)
        return module.eval()
