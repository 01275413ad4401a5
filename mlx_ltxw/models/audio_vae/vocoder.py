"""The vocoder's generator: mel spectrogram to waveform (BigVGAN v2), float32 whatever its weights' dtype.

In bf16 its spectral error grows by 40-90 % over some hundred convolutions in a row (official
`audio_vae/vocoder.py:VocoderWithBWE.forward`). Weights are cast where they are used, so that the model in memory stays
as small as it was loaded.
"""

from __future__ import annotations

from functools import partial
from math import ceil

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models import ops
from mlx_ltxw.models.audio_vae.activation import REACH, Activation1d
from mlx_ltxw.models.audio_vae.config import STEREO, GeneratorConfig
from mlx_ltxw.models.audio_vae.resample import polyphase

END_KERNEL = 7


class Conv1d(nn.Module):
    """A convolution that keeps the length; `weight` (O, K, I)."""

    def __init__(self, inputs: int, outputs: int, size: int, dilation: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.dilation = dilation
        scale = (inputs * size) ** -0.5
        self.weight = mx.random.uniform(-scale, scale, (outputs, size, inputs))
        if bias:
            self.bias = mx.zeros(outputs)

    def __call__(self, x: mx.array) -> mx.array:
        weight = self.weight.astype(mx.float32)
        bias = self.bias.astype(mx.float32) if "bias" in self else None
        return ops.conv1d(x, weight, bias, (weight.shape[1] - 1) // 2 * self.dilation, self.dilation)


class ConvTranspose1d(nn.Module):
    """Raises the rate: (B, L, I) to (B, L * rate, O); `weight` (O, K, I).

    The phases of the output are channels of one plain convolution, so nothing is scattered.
    """

    def __init__(self, inputs: int, outputs: int, size: int, rate: int) -> None:
        super().__init__()
        self.rate = rate
        scale = (inputs * size / rate) ** -0.5
        self.weight = mx.random.uniform(-scale, scale, (outputs, size, inputs))
        self.bias = mx.zeros(outputs)

    def __call__(self, x: mx.array) -> mx.array:
        batch, length, inputs = x.shape
        outputs, size, _ = self.weight.shape
        index, before = polyphase(size, self.rate, (size - self.rate) // 2)
        weight = mx.pad(self.weight.astype(mx.float32), [(0, 0), (0, 1), (0, 0)])
        weight = mx.take(weight, mx.array(index), axis=1)  # (O, rate, taps, I)
        weight = weight.swapaxes(0, 1).reshape(self.rate * outputs, index.shape[1], inputs)
        y = ops.conv1d(x, weight, None, before).reshape(batch, length * self.rate, outputs)
        return y + self.bias.astype(mx.float32)


class AMPBlock1(nn.Module):
    """Residual convolutions, dilated and plain by turns, each behind an anti-aliased activation."""

    def __init__(self, channels: int, size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = [Conv1d(channels, channels, size, dilation) for dilation in dilations]
        self.convs2 = [Conv1d(channels, channels, size) for _ in dilations]
        self.acts1 = [Activation1d(channels) for _ in dilations]
        self.acts2 = [Activation1d(channels) for _ in dilations]

    def __call__(self, x: mx.array) -> mx.array:
        submissions = ops.paced()
        for conv1, conv2, act1, act2 in zip(self.convs1, self.convs2, self.acts1, self.acts2, strict=True):
            x = x + conv2(act2(conv1(act1(x))))
            submissions.add(x)
        return x


def mean_of(blocks: list[AMPBlock1], x: mx.array) -> mx.array:
    """The mean of what each block makes of `x`."""
    total = blocks[0](x)
    for block in blocks[1:]:
        total = total + block(x)
    return total / len(blocks)


class Vocoder(nn.Module):
    """Mel spectrogram to waveform. Source: official `audio_vae/vocoder.py:Vocoder`."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.initial_channels
        self.conv_pre = Conv1d(STEREO * config.mel_bins, channels, END_KERNEL)
        self.ups, self.resblocks = [], []
        for rate, size in zip(config.rates, config.kernels, strict=True):
            self.ups.append(ConvTranspose1d(channels, channels // 2, size, rate))
            channels //= 2
            for kernel, dilations in zip(config.block_kernels, config.block_dilations, strict=True):
                self.resblocks.append(AMPBlock1(channels, kernel, dilations))
        self.act_post = Activation1d(channels)
        self.conv_post = Conv1d(channels, STEREO, END_KERNEL, bias=config.final_bias)

    def _reach(self) -> int:
        """Samples on either side that a stage's output sample depends on."""
        return max(
            sum((size - 1) // 2 * (dilation + 1) + 2 * REACH for dilation in dilations)
            for size, dilations in zip(self.config.block_kernels, self.config.block_dilations, strict=True)
        )

    def reach(self) -> int:
        """Spectrum frames on either side that a sample depends on."""
        reach, rate = float(END_KERNEL), 1
        for step, size in zip(self.config.rates, self.config.kernels, strict=True):
            reach += -(-size // step) / rate
            rate *= step
            reach += self._reach() / rate
        return ceil(reach + (REACH + END_KERNEL) / rate)

    def __call__(self, mel: mx.array) -> mx.array:
        """Renders `mel` (B, T, mels, 2), natural log, as a waveform (B, T * product of rates, 2) in float32.

        Each stage is evaluated, which keeps one GPU job short (a display's watchdog on Macs).
        """
        batch, frames, _, _ = mel.shape
        x = mel.astype(mx.float32).swapaxes(2, 3).reshape(batch, frames, -1)  # (B, T, 2 * mels)
        x = self.conv_pre(x)
        blocks = len(self.config.block_kernels)
        for stage, up in enumerate(self.ups):
            group = self.resblocks[stage * blocks : (stage + 1) * blocks]
            x = ops.in_chunks(partial(mean_of, group), up(x), self._reach())
            mx.eval(x)
        x = ops.in_chunks(lambda y: self.conv_post(self.act_post(y)), x, REACH + END_KERNEL)
        if self.config.final == "tanh":
            return mx.tanh(x)
        return mx.clip(x, -1, 1) if self.config.final == "clip" else x
