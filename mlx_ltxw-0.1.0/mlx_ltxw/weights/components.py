"""The networks of a model: which class, which part of the checkpoint's config, which files.

Classes are named, not imported, so that a command which needs no network loads none.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlx_ltxw.errors import UserError

if TYPE_CHECKING:
    import mlx.nn as nn


@dataclass(frozen=True)
class Component:
    """One network.

    Attributes:
        name: Also the stem of its files in a model directory.
        module: Where its classes are.
        network: The `nn.Module`, built from its config alone.
        config: The config class, with `read(section, ...)`.
        section: The checkpoint's config section that `read` takes.
    """

    name: str
    module: str
    network: str
    config: str
    section: str

    def read_config(self, checkpoint: Mapping[str, Any], **numbers: Any) -> Any:
        """The network's config, from the checkpoint's whole `config`.

        Args:
            checkpoint: The checkpoint's whole `config`.
            numbers: What `read` needs beside its section: the text projection takes `text_width` and `text_states`.

        Raises:
            UserError: a section or key is missing, or has a value that LTX-2.3 never has.
        """
        if self.section not in checkpoint:
            raise UserError(
                f"The checkpoint's config has no section '{self.section}', which {self.name} needs.",
                "Use an LTX-2.3 checkpoint with its whole config in the safetensors metadata.",
            )
        return getattr(importlib.import_module(self.module), self.config).read(checkpoint[self.section], **numbers)

    def build(self, config: Any, **options: Any) -> nn.Module:
        """The network with random weights that are never computed unless asked for.

        Args:
            config: From `read_config`.
            options: Of the network's constructor.
        """
        return getattr(importlib.import_module(self.module), self.network)(config, **options)


_MODELS = "mlx_ltxw.models"
COMPONENTS = {
    component.name: component
    for component in (
        Component("transformer", f"{_MODELS}.transformer", "Transformer", "TransformerConfig", "transformer"),
        Component("connectors", f"{_MODELS}.text", "Connectors", "ConnectorsConfig", "transformer"),
        Component("text_projection", f"{_MODELS}.text", "FeatureExtractor", "FeatureExtractorConfig", "transformer"),
        Component("video_vae", f"{_MODELS}.video_vae", "VideoVAE", "VideoVAEConfig", "vae"),
        Component("audio_vae", f"{_MODELS}.audio_vae", "AudioVAE", "AudioVAEConfig", "audio_vae"),
        Component("vocoder", f"{_MODELS}.audio_vae", "VocoderWithBWE", "VocoderConfig", "vocoder"),
    )
}
"""Every network of LTX-2.3 but the text encoder, which keeps mlx-lm's own layout."""

TEXT_ENCODER = "text_encoder"
"""The text encoder's folder in a model directory."""

_AUDIO_MARKS = (
    "audio_attn1",
    "audio_attn2",
    "audio_ff",
    "audio_patchify",
    "audio_proj_out",
    "audio_adaln_single",
    "audio_prompt",
    "audio_scale_shift_table",
)


def audio_side(name: str) -> bool:
    """Whether the audio-only transformer needs a parameter.

    Source: `ltx_core/model/transformer/model_configurator.py:LTXV_AUDIO_ONLY_MODEL_COMFY_RENAMING_MAP`.
    """
    return any(mark in name for mark in _AUDIO_MARKS)


def text_network(settings: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The Gemma-3 that a `config.json` describes, in any of its spellings, and the same config in mlx-lm's.

    Raises:
        UserError: another architecture, or a setting that no Gemma-3 has.
    """
    text = importlib.import_module(f"{_MODELS}.text.gemma")
    config = importlib.import_module(f"{_MODELS}.text.gemma_config").GemmaConfig.read(settings)
    return text.Gemma(config), config.mlx_lm()
