"""The video VAE: pixels (B, F, H, W, 3) to normalised latents (B, F', H', W', C) and back."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.video_vae.config import VideoVAEConfig
from mlx_ltxw.models.video_vae.conv import CausalConv3d
from mlx_ltxw.models.video_vae.layers import MidBlock, decoder_block, encoder_block, pixel_norm

logger = logging.getLogger(__name__)


def patchify(video: mx.array, size: int) -> mx.array:
    """(B, F, H, W, C) -> (B, F, H/size, W/size, C*size*size); channel order c, column, row, slowest first.

    Official `ops.py:patchify`, where columns come before rows.
    """
    batch, frames, height, width, channels = video.shape
    video = video.reshape(batch, frames, height // size, size, width // size, size, channels)
    return video.transpose(0, 1, 2, 4, 6, 5, 3).flatten(4)


def unpatchify(x: mx.array, size: int) -> mx.array:
    """The inverse of `patchify`."""
    batch, frames, height, width, channels = x.shape
    x = x.reshape(batch, frames, height, width, channels // size**2, size, size)
    return x.transpose(0, 1, 2, 6, 3, 5, 4).reshape(batch, frames, height * size, width * size, -1)


def each_layer(blocks: list[nn.Module]) -> Iterator[nn.Module]:
    """The blocks in order, with every run of residual blocks taken apart."""
    for block in blocks:
        yield from block.res_blocks if isinstance(block, MidBlock) else [block]


class PerChannelStatistics(nn.Module):
    """Mean and deviation of every latent channel over the training data (official `ops.py`); never trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self["std-of-means"] = mx.ones((channels,))
        self["mean-of-means"] = mx.zeros((channels,))
        self.freeze()

    def normalize(self, latent: mx.array) -> mx.array:
        """(..., C) -> zero mean, unit deviation, fp32."""
        return (latent - self["mean-of-means"].astype(mx.float32)) / self["std-of-means"].astype(mx.float32)

    def un_normalize(self, latent: mx.array) -> mx.array:
        """The inverse of `normalize`."""
        return latent * self["std-of-means"].astype(mx.float32) + self["mean-of-means"].astype(mx.float32)


class Encoder(nn.Module):
    """Pixels to the moments of a latent (official `video_vae.py:VideoEncoder`). Always causal in time.

    The first width is `latent_channels`, as in the official code.
    """

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        padding, width = config.padding_mode, config.latent_channels
        self.conv_in = CausalConv3d(3 * config.patch_size**2, width, padding, causal=True)
        self.down_blocks = []
        for block in config.encoder_blocks:
            module, width = encoder_block(block, width, padding, causal=True)
            self.down_blocks.append(module)
        self.conv_out = CausalConv3d(width, config.latent_channels + config.log_var_channels, padding, causal=True)
        self.patch_size = config.patch_size

    def __call__(self, video: mx.array, in_pieces: bool = False) -> mx.array:
        """Video (B, F, H, W, 3) -> means, then log-variance channels (B, F', H', W', C + extra), not normalised."""
        x = self.conv_in(patchify(video, self.patch_size))
        for layer in each_layer(self.down_blocks):
            x = layer(x)
            if in_pieces:
                mx.eval(x)
        return self.conv_out(nn.silu(pixel_norm(x)))


class Decoder(nn.Module):
    """Latent to pixels (official `conv_video_decoder.py:ConvVideoDecoder`)."""

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        padding, causal, width = config.padding_mode, config.causal_decoder, config.bottleneck_channels
        self.conv_in = CausalConv3d(config.latent_channels, width, padding, causal)
        self.up_blocks = []
        for block in config.decoder_blocks:
            module, width = decoder_block(block, width, padding, causal)
            self.up_blocks.append(module)
        self.conv_out = CausalConv3d(width, 3 * config.patch_size**2, padding, causal)
        self.patch_size = config.patch_size

    def __call__(self, latent: mx.array, in_pieces: bool = False) -> mx.array:
        """Latent (B, F', H', W', C), denormalised -> video (B, F, H, W, 3)."""
        x = self.conv_in(latent)
        for layer in each_layer(self.up_blocks):
            x = layer(x)
            if in_pieces:
                mx.eval(x)
        return unpatchify(self.conv_out(nn.silu(pixel_norm(x))), self.patch_size)


class VideoVAE(nn.Module):
    """Encoder, decoder and the statistics they share.

    Both directions run in the weights' dtype and answer in the input's dtype. `in_pieces` evaluates after every
    residual and resampling block, so that no GPU command runs long enough for a watchdog to kill it and intermediate
    arrays are let go early; it must be off where gradients are taken.
    """

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.per_channel_statistics = PerChannelStatistics(config.latent_channels)

    def encode(self, video: mx.array, in_pieces: bool = False) -> mx.array:
        """Video (B, F, H, W, 3) in [-1, 1] -> normalised latent means (B, F', H', W', C).

        F should be 1 + k * `config.scale[0]`; frames beyond the last such number are left out with a warning, as the
        official encoder does.

        Raises:
            UserError: if H or W is no multiple of the scale.
        """
        time, rows, columns = self.config.scale
        frames, height, width = video.shape[1:4]
        if height % rows or width % columns:
            raise UserError(
                f"A video of {width}x{height} pixels does not fit the video VAE.",
                f"Use a width that is a multiple of {columns} and a height that is a multiple of {rows}.",
            )
        if extra := (frames - 1) % time:
            logger.warning("the last %d of %d frames are not encoded (1 + %d*k fit)", extra, frames, time)
            video = video[:, : frames - extra]
        moments = self.encoder(video.astype(self.encoder.conv_in.conv.weight.dtype), in_pieces)
        means = moments[..., : self.config.latent_channels]
        return self.per_channel_statistics.normalize(means).astype(video.dtype)

    def decode(self, latent: mx.array, in_pieces: bool = False) -> mx.array:
        """Normalised latent (B, F', H', W', C) -> video (B, 1 + (F' - 1) * time, H, W, 3).

        Pixels are about [-1, 1]; they are not clipped.
        """
        x = self.per_channel_statistics.un_normalize(latent)
        x = self.decoder(x.astype(self.decoder.conv_in.conv.weight.dtype), in_pieces)
        return x.astype(latent.dtype)
