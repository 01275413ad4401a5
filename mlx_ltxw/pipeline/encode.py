"""Pictures and sounds to latent tokens."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_ltxw.models.audio_vae import AudioVAE, log_mel
from mlx_ltxw.models.video_vae import VideoVAE


def encode_frames(vae: VideoVAE, frames: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """Frames to clean video tokens.

    Args:
        vae: The video VAE.
        frames: (F, H, W, 3) uint8 of a size that the latent grid has.
        dtype: Of the pixels as the VAE reads them.

    Returns:
        (1, T, C) fp32, evaluated.
    """

    def read(start: int, stop: int) -> mx.array:
        return (mx.array(frames[start:stop])[None].astype(mx.float32) / 127.5 - 1).astype(dtype)

    latent = vae.encode_read(frames.shape[:3], read).astype(mx.float32)
    tokens = latent.reshape(1, -1, latent.shape[-1])
    mx.eval(tokens)
    return tokens


def encode_picture(vae: VideoVAE, picture: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """A picture (H, W, 3) fp32, 0 to 255, to the clean tokens of a clip of one frame: (1, T, C) fp32, evaluated."""
    pixels = (mx.array(picture, mx.float32)[None, None] / 127.5 - 1).astype(dtype)
    latent = vae.encode(pixels).astype(mx.float32)
    tokens = latent.reshape(1, -1, latent.shape[-1])
    mx.eval(tokens)
    return tokens


def encode_sound(vae: AudioVAE, waveform: np.ndarray, tokens: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    """A sound to clean audio tokens.

    Source: `ltx_trainer`'s preprocessing (cropped to the clip's seconds; what is missing is padded with zeros).

    Args:
        vae: The audio VAE, in the dtype to encode in.
        waveform: (N, 2) fp32 in [-1, 1] at the VAE's own rate.
        tokens: As many as the clip has; the sound's last spectrum frames may make one more.
        dtype: Of the spectrum as the VAE reads it.

    Returns:
        (1, tokens, C) fp32.
    """
    mel = log_mel(mx.array(waveform)[None], vae.config).astype(dtype)
    encoded = vae.encode(mel).astype(mx.float32)[:, :tokens]
    return mx.pad(encoded, [(0, 0), (0, tokens - encoded.shape[1]), (0, 0)])
