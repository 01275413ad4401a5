"""The video VAE: pixels (B, F, H, W, 3) to normalised latents (B, F', H', W', C) and back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.statistics import PerChannelStatistics
from mlx_ltxw.models.submissions import Submissions
from mlx_ltxw.models.video_vae.config import VideoVAEConfig
from mlx_ltxw.models.video_vae.conv import CausalConv3d
from mlx_ltxw.models.video_vae.layers import MidBlock, activated, decoder_block, encoder_block
from mlx_ltxw.models.video_vae.pieces import WINDOW, Layer, Piece, Pieces, bounded, cut, frames_within, joined

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


def each_layer(blocks: list[Layer]) -> Iterator[Layer]:
    """The blocks in order, with every run of residual blocks taken apart."""
    for block in blocks:
        yield from block.res_blocks if isinstance(block, MidBlock) else [block]


def through(layers: list[Layer], pieces: Pieces) -> Pieces:
    """What the layers make of the pieces, one after the other, with a bound on what is in memory."""
    submissions = Submissions(1, WINDOW)
    for layer in each_layer(layers):
        pieces = bounded(layer.pieces(cut(pieces, layer.growth)), submissions)
    return pieces


class Encoder(Layer):
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

    def pieces(self, pieces: Pieces) -> Pieces:
        """Video (B, F, H, W, 3) -> means, then log-variance channels (B, F', H', W', C + extra), not normalised."""
        patches = (Piece(patchify(frames, self.patch_size), last) for frames, last in pieces)
        x = through(self.down_blocks, self.conv_in.pieces(patches))
        return self.conv_out.pieces(map(activated, x))


class Decoder(Layer):
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

    def pieces(self, pieces: Pieces) -> Pieces:
        """Latent (B, F', H', W', C), denormalised -> video (B, F, H, W, 3)."""
        x = through(self.up_blocks, self.conv_in.pieces(pieces))
        pixels = self.conv_out.pieces(map(activated, cut(x)))
        return map(self._unpatched, pixels)

    def _unpatched(self, piece: Piece) -> Piece:
        return piece._replace(frames=unpatchify(piece.frames, self.patch_size))


class VideoVAE(nn.Module):
    """Encoder, decoder and the statistics they share.

    Both directions run in the weights' dtype and answer in the input's dtype. They go through the layers in pieces
    along time (`pieces.BYTES`), each evaluated: memory does not grow with the length, no piece of work on a GPU runs
    long enough for a watchdog to end it, and no gradient can be taken.
    """

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.per_channel_statistics = PerChannelStatistics(config.latent_channels)

    def encode(self, video: mx.array) -> mx.array:
        """Video (B, F, H, W, 3) in [-1, 1] -> normalised latent means (B, F', H', W', C); see `encode_read`."""
        return self.encode_read((video.shape[1], video.shape[2], video.shape[3]), lambda i, j: video[:, i:j])

    def encode_read(self, size: tuple[int, int, int], read: Callable[[int, int], mx.array]) -> mx.array:
        """Encodes a video that is read in pieces.

        F should be 1 + k * `config.scale[0]`; frames beyond the last such number are left out with a warning, as the
        official encoder does.

        Args:
            size: Frames, height and width (F, H, W).
            read: Gives the pixels (B, j - i, H, W, 3) of frames i to j - 1, in [-1, 1].

        Returns:
            Normalised latent means (B, F', H', W', C) in the pixels' dtype.

        Raises:
            UserError: if H or W is no multiple of the scale.
        """
        time, rows, columns = self.config.scale
        frames, height, width = size
        if height % rows or width % columns:
            raise UserError(
                f"A video of {width}x{height} pixels does not fit the video VAE.",
                f"Use a width that is a multiple of {columns} and a height that is a multiple of {rows}.",
            )
        if extra := (frames - 1) % time:
            logger.warning("the last %d of %d frames are not encoded (1 + %d*k fit)", extra, frames, time)
            frames -= extra
        dtype = self.encoder.conv_in.conv.weight.dtype
        first_layer = height * width // self.encoder.patch_size**2 * self.config.latent_channels * dtype.size
        most = frames_within(first_layer)
        of: list[mx.Dtype] = []

        def pixels() -> Pieces:
            for start in range(0, frames, most):
                piece = read(start, min(start + most, frames))
                of.append(piece.dtype)
                yield Piece(piece.astype(dtype), start + most >= frames)

        moments = joined([piece.frames for piece in self.encoder.pieces(pixels())])
        means = moments[..., : self.config.latent_channels]
        return self.per_channel_statistics.normalize(means.astype(mx.float32)).astype(of[0])

    def decode(self, latent: mx.array) -> mx.array:
        """Normalised latent (B, F', H', W', C) -> video (B, 1 + (F' - 1) * time, H, W, 3).

        Pixels are about [-1, 1]; they are not clipped.
        """
        return joined(list(self.decode_pieces(latent)))

    def decode_pieces(self, latent: mx.array) -> Iterator[mx.array]:
        """As `decode`, piece by piece along time."""
        x = self.per_channel_statistics.un_normalize(latent.astype(mx.float32)).astype(
            self.decoder.conv_in.conv.weight.dtype
        )
        for piece in self.decoder.pieces(iter([Piece(x, True)])):
            yield piece.frames.astype(latent.dtype)
