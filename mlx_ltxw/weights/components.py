"""The networks of a model: which class, which part of the checkpoint's config, which files.

Classes are imported when they are asked for, so that a command which needs no network loads none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlx_ltxw.errors import UserError

if TYPE_CHECKING:
    import mlx.nn as nn

Classes = tuple[Callable[..., Any], Callable[..., Any]]
"""A network's class, and what reads its config."""


def _transformer() -> Classes:
    from mlx_ltxw.models.transformer import Transformer, TransformerConfig

    return Transformer, TransformerConfig.read


def _connectors() -> Classes:
    from mlx_ltxw.models.text import Connectors, ConnectorsConfig

    return Connectors, ConnectorsConfig.read


def _text_projection() -> Classes:
    from mlx_ltxw.models.text import FeatureExtractor, FeatureExtractorConfig

    return FeatureExtractor, FeatureExtractorConfig.read


def _video_vae() -> Classes:
    from mlx_ltxw.models.video_vae import VideoVAE, VideoVAEConfig

    return VideoVAE, VideoVAEConfig.read


def _audio_vae() -> Classes:
    from mlx_ltxw.models.audio_vae import AudioVAE, AudioVAEConfig

    return AudioVAE, AudioVAEConfig.read


def _vocoder() -> Classes:
    from mlx_ltxw.models.audio_vae import VocoderConfig, VocoderWithBWE

    return VocoderWithBWE, VocoderConfig.read


def _text_encoder() -> Classes:
    from mlx_ltxw.models.text import Gemma, GemmaConfig

    return Gemma, GemmaConfig.read


def _upsampler() -> Classes:
    from mlx_ltxw.models.upsampler import Upsampler, UpsamplerConfig

    return Upsampler, UpsamplerConfig.read


@dataclass(frozen=True)
class Component:
    """One network.

    Attributes:
        name: Also the stem of its files in a model directory, or its folder.
        section: The checkpoint's config section that describes it; '' for the text encoder and for upsamplers, which
            have a config of their own.
        classes: Imports its class, and what reads its config.
        layers: From its config, how many layers its tensors number; None where they number none.
        layers_at: The attribute that holds them, of a network that can be read layer by layer.
    """

    name: str
    section: str
    classes: Callable[[], Classes]
    layers: Callable[[Any], int] | None = None
    layers_at: str = ""

    def read_config(self, checkpoint: Mapping[str, Any], **numbers: Any) -> Any:
        """The network's config, from the checkpoint's whole `config`, or from the network's own where it has one.

        Args:
            checkpoint: The parsed JSON object.
            numbers: What is needed beside the section: the text projection takes `text_width` and `text_states`.

        Raises:
            UserError: a section or key is missing, or has a value that LTX-2.3 never has.
        """
        read = self.classes()[1]
        if not self.section:
            return read(checkpoint)
        if self.section not in checkpoint:
            raise UserError(
                f"The checkpoint's config has no section '{self.section}', which {self.name} needs.",
                "Use an LTX-2.3 checkpoint with its whole config in the safetensors metadata.",
            )
        try:
            return read(checkpoint[self.section], **numbers)
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            raise UserError(
                f"The checkpoint's config section '{self.section}' is damaged ({error}).",
                "Use an LTX-2.3 checkpoint with its own config.",
            ) from error

    def build(self, config: Any, names: Iterable[str] | None = None, **options: Any) -> nn.Module:
        """The network with random weights that are never computed unless asked for.

        Args:
            config: From `read_config`.
            names: Of the tensors it is to hold, whose numbering may not end before the layers do; checked first.
            options: Keyword arguments of the network's constructor.

        Raises:
            UserError: the config has more layers than the tensors, or describes no network.
        """
        from mlx_ltxw.weights.loading import check_depth

        if names is not None and self.layers is not None:
            check_depth(self.name, self.layers(config), names)
        try:
            return self.classes()[0](config, **options)
        except (ValueError, TypeError, OverflowError, ZeroDivisionError, MemoryError) as error:
            raise UserError(
                f"The config of the {self.name} describes no network that can be built ({error}).",
                "Use an LTX-2.3 checkpoint with its own config.",
            ) from error


def _layers(config: Any) -> int:
    return config.layers


def _connector_layers(config: Any) -> int:
    return max(config.video.layers, config.audio.layers)


TEXT_ENCODER = "text_encoder"
"""The text encoder's name, and its folder in a model directory."""

TEXT_PARTS = ("text_projection", "connectors")
"""What follows the text encoder before the transformer."""

COMPONENTS = {
    component.name: component
    for component in (
        Component("transformer", "transformer", _transformer, _layers, "transformer_blocks"),
        Component("connectors", "transformer", _connectors, _connector_layers),
        Component("text_projection", "transformer", _text_projection),
        Component("video_vae", "vae", _video_vae),
        Component("audio_vae", "audio_vae", _audio_vae),
        Component("vocoder", "vocoder", _vocoder),
        Component(TEXT_ENCODER, "", _text_encoder, _layers, "layers"),
    )
}
"""Every network of LTX-2.3."""

IN_CHECKPOINT = tuple(name for name, component in COMPONENTS.items() if component.section)
"""Those whose tensors lie in the checkpoint; the text encoder is a Gemma-3 of its own."""

_UPSAMPLER = "upsampler."


def upsampler_name(kind: str) -> str:
    """The component's name of an upsampler, by `UpsamplerConfig.name`; a model directory may hold none or several."""
    return _UPSAMPLER + kind


def is_upsampler(name: str) -> bool:
    """Whether a component's name is an upsampler's."""
    return name.startswith(_UPSAMPLER)


def component_named(name: str) -> Component:
    """One of `COMPONENTS`, or an upsampler."""
    return Component(name, "", _upsampler) if is_upsampler(name) else COMPONENTS[name]


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


def of_adapted_audio(path: str) -> bool:
    """Whether an adapted audio stream, which reads the video beside the base, needs a parameter of a block.

    Args:
        path: In the block (`Block.audio_updates`).
    """
    return audio_side(path) or path.startswith("video_to_audio_attn.") or path == "scale_shift_table_a2v_ca_audio"
