"""The official video VAE at small sizes, with random weights, in the project's channels-last layout.

The classes are those of ltx_core 1.0.0. Where 1.2.0 differs (the decoder's bottleneck and the scale follow the block
list there), `OfficialVideoVAE` brings 1.0.0 to the same numbers through its constructor's arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import torch

from tests.reference.weights import randomise

from ltx_core.model.video_vae.model_configurator import VideoDecoderConfigurator, VideoEncoderConfigurator
from ltx_core.model.video_vae.tiling import SpatialTilingConfig, TemporalTilingConfig, TilingConfig


def small_config(**changes: Any) -> dict[str, Any]:
    """A `vae` config with LTX-2.3's block kinds and scale, few channels and one layer per `res_x`."""

    def blocks(suffix: str, multipliers: tuple[int, int, int, int]) -> list[list[Any]]:
        space, time, first, second = ({"multiplier": multiplier} for multiplier in multipliers)
        res = ["res_x", {"num_layers": 1}]
        return [
            res,
            ["compress_space" + suffix, space],
            res,
            ["compress_time" + suffix, time],
            res,
            ["compress_all" + suffix, first],
            res,
            ["compress_all" + suffix, second],
            res,
        ]

    config = {
        "_class_name": "CausalVideoAutoencoder",
        "dims": 3,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 8,
        "encoder_blocks": blocks("_res", (2, 2, 2, 1)),
        "decoder_blocks": blocks("", (2, 2, 1, 2)),
        "scaling_factor": 1.0,
        "norm_layer": "pixel_norm",
        "patch_size": 4,
        "latent_log_var": "uniform",
        "use_quant_conv": False,
        "causal_decoder": False,
        "timestep_conditioning": False,
        "normalize_latent_channels": False,
        "encoder_base_channels": 8,
        "decoder_base_channels": 4,
        "spatial_padding_mode": "zeros",
    }
    config.update(changes)
    return config


class OfficialVideoVAE(torch.nn.Module):
    """Official encoder and decoder with one set of random weights and statistics; (B, F, H, W, C) in and out."""

    def __init__(self, config: dict[str, Any], seed: int = 0) -> None:
        super().__init__()
        multipliers = prod(
            options.get("multiplier", 1) for _, options in config["decoder_blocks"] if isinstance(options, dict)
        )
        base, rest = divmod(config["decoder_base_channels"] * multipliers, 8)  # 1.0.0 always takes 8 times the base
        assert rest == 0
        self.encoder = VideoEncoderConfigurator.from_config({"vae": config})
        self.decoder = VideoDecoderConfigurator.from_config({"vae": {**config, "decoder_base_channels": base}})
        randomise(self, seed)
        for part in (self.encoder, self.decoder):
            generator = torch.Generator().manual_seed(seed + 1)  # both parts hold the same statistics
            statistics = part.per_channel_statistics
            statistics.get_buffer("std-of-means").copy_(
                torch.rand(config["latent_channels"], generator=generator) + 0.5
            )
            statistics.get_buffer("mean-of-means").copy_(torch.randn(config["latent_channels"], generator=generator))
        self.eval()

    @staticmethod
    def rename(name: str) -> str:
        """State-dict name -> checkpoint name: the statistics lie beside encoder and decoder, not in both."""
        part, _, rest = name.partition(".")
        return rest if rest.startswith("per_channel_statistics.") else f"{part}.{rest}"

    @torch.no_grad()
    def encode(self, video: np.ndarray) -> np.ndarray:
        return channels_last(self.encoder(channels_first(video)))

    @torch.no_grad()
    def decode(self, latent: np.ndarray) -> np.ndarray:
        return channels_last(self.decoder(channels_first(latent)))

    @torch.no_grad()
    def decode_tiled(
        self, latent: np.ndarray, frames: tuple[int, int] | None, pixels: tuple[int, int] | None
    ) -> Iterator[np.ndarray]:
        """Official tiled decode with (tile, overlap) in frames and pixels; yields (f, H, W, 3)."""
        tiling = TilingConfig(
            spatial_config=SpatialTilingConfig(*pixels) if pixels else None,
            temporal_config=TemporalTilingConfig(*frames) if frames else None,
        )
        for chunk in self.decoder.tiled_decode(channels_first(latent), tiling):
            yield channels_last(chunk)[0]


def channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def channels_last(tensor: torch.Tensor) -> np.ndarray:
    return np.moveaxis(tensor.numpy(), 1, -1)
