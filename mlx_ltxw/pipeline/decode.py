"""Latent tokens to pictures and sounds."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from mlx_ltxw.gpu_errors import telling_gpu_errors
from mlx_ltxw.models.video_vae import Tiling, decode_tiled
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.numbers import check_finite
from mlx_ltxw.world import ALONE, World


def decode_audio(networks: Networks, tokens: mx.array) -> tuple[np.ndarray, int]:
    """Audio tokens to sound.

    Args:
        networks: For the audio VAE and the vocoder, which is fp32 in any case.
        tokens: (1, T, C).

    Returns:
        A waveform (N, 2) fp32 and its rate.
    """
    mel = networks.audio_vae().decode(tokens.astype(networks.dtype)).astype(mx.float32)
    mx.eval(mel)
    vocoder = networks.vocoder()
    waveform = vocoder(mel)
    mx.eval(waveform)
    rate = vocoder.output_rate
    del vocoder
    mx.clear_cache()
    return np.asarray(waveform[0]), rate


@telling_gpu_errors
def decode_video(
    networks: Networks, tokens: mx.array, geometry: Geometry, world: World = ALONE
) -> Iterator[np.ndarray]:
    """Video tokens to pictures; nothing is loaded before the first are asked for.

    Args:
        networks: For the video VAE.
        tokens: (1, T, C).
        geometry: The clip's pixels, frames and rate.
        world: Machines that share the tiles; all of them take the pictures to their end, and the leading one has them.

    Yields:
        Chunks of frames (f, H, W, 3) uint8.
    """
    vae = networks.video_vae()
    latent = tokens.reshape(1, *geometry.latent_shape, -1).astype(networks.dtype)
    for chunk in decode_tiled(vae, latent, Tiling(), world):
        check_finite("The picture's values", chunk)
        pixels = mx.clip((chunk.astype(mx.float32) + 1) * 127.5, 0, 255)
        yield np.asarray(mx.round(pixels).astype(mx.uint8))
