"""The official audio classes (ltx-core) at small size, random weights, in float64: what the parity tests compare with.

The audio classes of the newest release differ from 1.0.0 in nothing that a float64 run could show (it computes the
vocoder in float32 whatever the weights' dtype).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import tests.reference  # noqa: F401
from tests.reference.weights import randomise

from ltx_core.model.audio_vae.model_configurator import (
    AudioDecoderConfigurator,
    AudioEncoderConfigurator,
    VocoderConfigurator,
)
from ltx_core.model.audio_vae.ops import AudioProcessor
from ltx_core.model.audio_vae.vocoder import Vocoder, VocoderWithBWE
from ltx_core.types import Audio


def audio_vae_section(**network: Any) -> dict[str, Any]:
    """`config.audio_vae` as LTX-2.3 writes it, small; `network` replaces keys of its `ddconfig`."""
    ddconfig = {
        "double_z": True, "mel_bins": 64, "z_channels": 2, "resolution": 256, "downsample_time": False,
        "in_channels": 2, "out_ch": 2, "ch": 32, "ch_mult": [1, 2, 3], "num_res_blocks": 1, "attn_resolutions": [],
        "dropout": 0.0, "mid_block_add_attention": False, "norm_type": "pixel", "causality_axis": "height",
    }  # fmt: skip
    return {
        "model": {"params": {"ddconfig": ddconfig | network, "sampling_rate": 16000}},
        "preprocessing": {
            "audio": {"sampling_rate": 16000, "max_wav_value": 32768.0, "duration": 5.12, "stereo": True},
            "stft": {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "causal": True},
            "mel": {"n_mel_channels": 64, "mel_fmin": 0, "mel_fmax": 8000},
        },
    }


def vocoder_section(base: dict[str, Any] | None = None, bwe: dict[str, Any] | None = None) -> dict[str, Any]:
    """`config.vocoder` as LTX-2.3 writes it, small; `base` and `bwe` replace keys of its two parts."""
    shared = {
        "resblock": "AMP1", "resblock_kernel_sizes": [3, 7, 11], "resblock_dilation_sizes": [[1, 3, 5]] * 3,
        "stereo": True, "use_tanh_at_final": False, "activation": "snakebeta", "use_bias_at_final": False,
    }  # fmt: skip
    first = {
        "upsample_initial_channel": 32, "upsample_rates": [5, 4, 4, 2], "upsample_kernel_sizes": [11, 8, 8, 4],
    }  # fmt: skip
    second = {
        "upsample_initial_channel": 16, "upsample_rates": [8, 6, 5], "upsample_kernel_sizes": [16, 12, 11],
        "apply_final_activation": False, "input_sampling_rate": 16000, "output_sampling_rate": 48000,
        "hop_length": 80, "n_fft": 512, "win_size": 512, "num_mels": 64,
    }  # fmt: skip
    return {"vocoder": shared | first | (base or {}), "bwe": shared | second | (bwe or {})}


class OfficialAudioVAE(torch.nn.Module):
    """The official encoder and decoder, which hold the same statistics twice."""

    def __init__(self, section: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = AudioEncoderConfigurator.from_config({"audio_vae": section})
        self.decoder = AudioDecoderConfigurator.from_config({"audio_vae": section})
        randomise(self)
        generator = torch.Generator().manual_seed(1)
        for name in ("std-of-means", "mean-of-means"):
            values = torch.rand(self.encoder.ch, generator=generator) + 0.5
            for half in (self.encoder, self.decoder):
                half.per_channel_statistics.get_buffer(name).copy_(values)
        self.double()

    @staticmethod
    def rename(name: str) -> str:
        """The checkpoint keeps the statistics outside of both halves."""
        half, _, rest = name.partition(".")
        return rest if rest.startswith("per_channel_statistics.") else f"{half}.{rest}"

    @torch.no_grad()
    def encode(self, mel: np.ndarray) -> np.ndarray:
        """(B, T, mels, 2) -> tokens (B, T', C * bins)."""
        latent = self.encoder(torch.from_numpy(mel).double().permute(0, 3, 1, 2))  # (B, C, T', bins)
        return self.encoder.patchifier.patchify(latent).numpy()

    @torch.no_grad()
    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens (B, T, C * bins) -> (B, 4 T - 3, mels, 2)."""
        batch, frames, features = tokens.shape
        channels = self.decoder.z_channels
        latent = torch.from_numpy(tokens).double().reshape(batch, frames, channels, features // channels)
        return self.decoder(latent.permute(0, 2, 1, 3)).permute(0, 2, 3, 1).numpy()


def official_vocoder(section: dict[str, Any]) -> VocoderWithBWE:
    """The official vocoder in float64, every parameter and every stored filter and basis random."""
    vocoder = randomise(VocoderConfigurator.from_config({"vocoder": section}))
    generator = torch.Generator().manual_seed(1)
    for name, buffer in vocoder.named_buffers():
        noise = torch.randn(buffer.shape, generator=generator)
        if name.endswith(("upsample.filter", "lowpass.filter")):
            buffer += 0.02 * noise  # not what one would compute, so that a computed filter is found out
        elif name.endswith("forward_basis"):
            buffer.copy_(0.1 * noise)
        elif name.endswith("mel_basis"):
            buffer.copy_(0.1 * noise.abs())
    return vocoder.double()


@torch.no_grad()
def render(vocoder: Vocoder | VocoderWithBWE, mel: np.ndarray) -> np.ndarray:
    """(B, T, mels, 2) -> waveform (B, N, 2)."""
    return vocoder(torch.from_numpy(mel).double().permute(0, 3, 1, 2)).transpose(1, 2).numpy()


def official_log_mel(waveform: np.ndarray) -> np.ndarray:
    """(B, N, 2) at 16 kHz -> (B, 1 + N // 160, 64, 2)."""
    processor = AudioProcessor(target_sample_rate=16000, mel_bins=64, mel_hop_length=160, n_fft=1024).double()
    audio = Audio(waveform=torch.from_numpy(waveform).double().transpose(1, 2), sampling_rate=16000)
    return processor.waveform_to_mel(audio).permute(0, 2, 3, 1).numpy()
