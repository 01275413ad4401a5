"""What one stage made, as large as the next one makes it."""

from __future__ import annotations

import mlx.core as mx

from mlx_ltxw.models.upsampler import upsample
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.latents import Latents
from mlx_ltxw.pipeline.needs import UPSAMPLER_PART
from mlx_ltxw.pipeline.networks import Networks


def upsampled(latents: Latents, small: Geometry, upsampler: str, networks: Networks) -> Latents:
    """Clean latents with a larger video; sounds stay.

    Source: `ltx_pipelines/utils/blocks.py:VideoUpsampler`.

    Args:
        latents: Of the stage before.
        small: Its size.
        upsampler: Which one.
        networks: For the upsampler and the video VAE's statistics; nothing else of the VAE is read.
    """
    assert latents.video is not None
    statistics = networks.video_vae(f"{UPSAMPLER_PART} {upsampler}").per_channel_statistics
    network = networks.upsampler(upsampler)
    grid = latents.video.reshape(1, *small.latent_shape, -1)
    large = upsample(network, statistics, grid)
    del network
    mx.clear_cache()
    return latents._replace(video=large.reshape(1, -1, large.shape[-1]))
