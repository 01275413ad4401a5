"""The audio VAE: log-mel spectrograms to latent tokens and back, causal in time. Channels last: (B, time, bins, C)."""

from __future__ import annotations

from math import ceil

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models import ops
from mlx_ltxw.models.audio_vae.config import LEVELS, STEREO, AudioVAEConfig
from mlx_ltxw.models.statistics import PerChannelStatistics

EPS = 1e-6
SCALE = 2 ** (LEVELS - 1)
"""Spectrum frames to a latent frame."""
LOOK_BACK = 2
"""Frames before its own that a convolution sees."""
FRAMES = 128
"""Latent frames coded at a time, 5 s; the frames before them are a quarter more work."""


def pixel_norm(x: mx.array) -> mx.array:
    """Divides by the root mean square over the channels."""
    return mx.fast.rms_norm(x, None, EPS)


class CausalConv2d(nn.Module):
    """A convolution that looks back in time and to both sides in frequency; same size out.

    Source: official `audio_vae/causal_conv_2d.py:CausalConv2d`.
    """

    def __init__(self, inputs: int, outputs: int, size: int = 3) -> None:
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(inputs, outputs, size)

    def __call__(self, x: mx.array) -> mx.array:
        side = self.size // 2
        return ops.conv2d(mx.pad(x, [(0, 0), (self.size - 1, 0), (side, side), (0, 0)]), self.conv)


class ResnetBlock(nn.Module):
    """Two convolutions and a shortcut, 1x1 where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = CausalConv2d(inputs, outputs)
        self.conv2 = CausalConv2d(outputs, outputs)
        if inputs != outputs:
            self.nin_shortcut = CausalConv2d(inputs, outputs, 1)

    def __call__(self, x: mx.array) -> mx.array:
        h = self.conv1(nn.silu(pixel_norm(x)))
        h = self.conv2(nn.silu(pixel_norm(h)))
        return h + (self.nin_shortcut(x) if "nin_shortcut" in self else x)


class Downsample(nn.Module):
    """Halves both axes: time (T to ceil(T / 2), looking back) and frequency."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def __call__(self, x: mx.array) -> mx.array:
        return ops.conv2d(mx.pad(x, [(0, 0), (2, 0), (0, 1), (0, 0)]), self.conv)


class Upsample(nn.Module):
    """Doubles both axes; time T becomes 2 T - 1, since the first frame sees nothing but itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv2d(channels, channels)

    def __call__(self, x: mx.array) -> mx.array:
        return self.conv(mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2))[:, 1:]


class Level(nn.Module):
    """The residual blocks of one resolution, and the step to the next."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.block = [ResnetBlock(inputs if i == 0 else outputs, outputs) for i in range(blocks)]

    def __call__(self, x: mx.array) -> mx.array:
        for block in self.block:
            x = block(x)
        if "downsample" in self:
            return self.downsample(x)
        return self.upsample(x) if "upsample" in self else x


class Mid(nn.Module):
    """The two blocks at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.block_2 = ResnetBlock(channels, channels)

    def __call__(self, x: mx.array) -> mx.array:
        return self.block_2(self.block_1(x))


class AudioEncoder(nn.Module):
    """(B, T, mels, 2) to the latent's mean (B, ceil(ceil(T / 2) / 2), bins, C). Source: `audio_vae.py:AudioEncoder`."""

    def __init__(self, config: AudioVAEConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.latent_channels = config.latent_channels
        self.conv_in = CausalConv2d(STEREO, config.channels)
        self.down = []
        for index, (inputs, outputs) in enumerate(zip([config.channels, *widths], widths, strict=False)):
            level = Level(inputs, outputs, config.num_res_blocks)
            if index < LEVELS - 1:
                level.downsample = Downsample(outputs)
            self.down.append(level)
        self.mid = Mid(widths[-1])
        self.conv_out = CausalConv2d(widths[-1], 2 * config.latent_channels)

    def reach(self) -> int:
        """Spectrum frames before a latent frame's own that it depends on."""
        blocks, scale = len(self.down[0].block), 1
        reach = LOOK_BACK
        for level in self.down:
            reach += 2 * LOOK_BACK * blocks * scale + (LOOK_BACK * scale if "downsample" in level else 0)
            scale *= 2 if "downsample" in level else 1
        return reach + 5 * LOOK_BACK * scale + scale

    def __call__(self, mel: mx.array) -> mx.array:
        x = self.conv_in(mel)
        for level in self.down:
            x = level(x)
        x = self.conv_out(nn.silu(pixel_norm(self.mid(x))))
        return x[..., : self.latent_channels]  # the second half is the log-variance; nothing is sampled


class AudioDecoder(nn.Module):
    """(B, T, bins, C) to (B, 4 T - 3, mels, 2). Source: `audio_vae.py:AudioDecoder`."""

    def __init__(self, config: AudioVAEConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.conv_in = CausalConv2d(config.latent_channels, widths[-1])
        self.mid = Mid(widths[-1])
        self.up = []
        for index, (inputs, outputs) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True)):
            level = Level(inputs, outputs, config.num_res_blocks + 1)
            if index > 0:
                level.upsample = Upsample(outputs)
            self.up.append(level)
        self.conv_out = CausalConv2d(widths[0], STEREO)

    def reach(self) -> int:
        """Latent frames before a spectrum frame's own that it depends on."""
        blocks, scale = len(self.up[0].block), 1
        reach = 5.0 * LOOK_BACK
        for level in reversed(self.up):
            reach += 2 * LOOK_BACK * blocks / scale
            if "upsample" in level:
                scale *= 2
                reach += (LOOK_BACK + 1) / scale
        return ceil(reach + LOOK_BACK / scale) + 1

    def __call__(self, latent: mx.array) -> mx.array:
        x = self.mid(self.conv_in(latent))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(nn.silu(pixel_norm(x)))


class AudioVAE(nn.Module):
    """Both halves with their shared statistics; computes in the weights' dtype.

    A long sound is coded in pieces of `FRAMES`, each with the frames before it that it depends on and evaluated, so
    that memory does not grow with the length; the result is the whole's.
    """

    def __init__(self, config: AudioVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AudioEncoder(config)
        self.decoder = AudioDecoder(config)
        self.per_channel_statistics = PerChannelStatistics(config.features)

    def encode(self, mel: mx.array) -> mx.array:
        """Log-mel (B, T, mels, 2) to normalised tokens (B, ceil(ceil(T / 2) / 2), C * bins), feature c * bins + bin.

        The tokens are the posterior's mean, in the weights' dtype.
        """
        mel = mel.astype(self.encoder.conv_in.conv.weight.dtype)
        latents, reach = [], -(-self.encoder.reach() // SCALE)
        for start in range(0, -(-mel.shape[1] // SCALE), FRAMES):
            first = max(0, start - reach)
            latent = self.encoder(mel[:, SCALE * first : SCALE * (start + FRAMES)])[:, start - first :]
            latents.append(mx.contiguous(latent))
            mx.eval(latents[-1])
        latent = mx.concatenate(latents, axis=1)  # (B, T', bins, C)
        tokens = latent.swapaxes(2, 3).reshape(*latent.shape[:2], -1)
        return self.per_channel_statistics.normalize(tokens)

    def decode(self, tokens: mx.array) -> mx.array:
        """Normalised tokens (B, T, C * bins) to the log-mel (B, 4 T - 3, mels, 2), in the weights' dtype."""
        batch, frames, _ = tokens.shape
        tokens = self.per_channel_statistics.un_normalize(tokens.astype(self.decoder.conv_in.conv.weight.dtype))
        latent = tokens.reshape(batch, frames, self.config.latent_channels, self.config.latent_bins).swapaxes(2, 3)
        mels, reach = [], self.decoder.reach()
        for start in range(0, frames, FRAMES):
            first = max(0, start - reach)
            mel = self.decoder(latent[:, first : start + FRAMES])
            # Latent frame t makes the frames 4 t - 3 to 4 t; the first makes one.
            mels.append(mx.contiguous(mel[:, SCALE * (start - first) - SCALE + 1 :] if start else mel))
            mx.eval(mels[-1])
        return mx.concatenate(mels, axis=1)
