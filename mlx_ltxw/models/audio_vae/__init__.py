"""Sound to latent tokens and back: log-mel front end, audio VAE, vocoder with bandwidth extension."""

from mlx_ltxw.models.audio_vae.autoencoder import AudioVAE
from mlx_ltxw.models.audio_vae.bandwidth import VocoderWithBWE
from mlx_ltxw.models.audio_vae.config import AudioVAEConfig, GeneratorConfig, VocoderConfig
from mlx_ltxw.models.audio_vae.mel import log_mel
from mlx_ltxw.models.audio_vae.offset import remove_offset
from mlx_ltxw.models.audio_vae.onset import soften_onset
from mlx_ltxw.models.audio_vae.vocoder import Vocoder

__all__ = [
    "AudioVAE",
    "AudioVAEConfig",
    "GeneratorConfig",
    "Vocoder",
    "VocoderConfig",
    "VocoderWithBWE",
    "log_mel",
    "remove_offset",
    "soften_onset",
]
