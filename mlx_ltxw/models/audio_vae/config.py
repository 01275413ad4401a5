"""The audio configs: the `audio_vae` and `vocoder` sections of the checkpoint's own config."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.config import LONGEST, Section

LEVELS = 3
"""Resolutions of the audio VAE; the official decoder's output length (4 T - 3) is written for three."""
STEREO = 2
VOCODER_MELS = 64
"""Mel bins a channel that the official vocoder's first layer takes; its config does not say so."""


def _require(section: Section, key: str, value: Any) -> None:
    """Refuses an absent `key` and any other value."""
    section.take(key)
    section.expect(key, value)


def _refuse(message: str) -> UserError:
    return UserError(message, "Use the config that ships inside the LTX-2.3 checkpoint.")


@dataclass(frozen=True)
class AudioVAEConfig:
    """Sizes of the audio VAE and of the mel spectrogram it reads.

    Args:
        sample_rate: Of the waveform that the mel is made of, in Hz.
        n_fft: Samples of the STFT and of its window.
        hop: Samples from one mel frame to the next.
        mel_bins: Mel bins a channel.
        channels: Width of the first level.
        multipliers: Width of each level, in units of `channels`.
        num_res_blocks: Residual blocks a level of the encoder; the decoder has one more.
        latent_channels: Channels of a latent frame, per latent bin.
    """

    sample_rate: int
    n_fft: int
    hop: int
    mel_bins: int
    channels: int
    multipliers: tuple[int, ...]
    num_res_blocks: int
    latent_channels: int

    @property
    def downscale(self) -> int:
        """Mel frames, and mel bins, to one of the latent."""
        return 2 ** (LEVELS - 1)

    @property
    def latent_bins(self) -> int:
        """Frequency bins of the latent."""
        return self.mel_bins // self.downscale

    @property
    def features(self) -> int:
        """Width of a latent token: `latent_channels * latent_bins`."""
        return self.latent_channels * self.latent_bins

    @property
    def frame_rate(self) -> float:
        """Latent frames a second (25)."""
        return self.sample_rate / self.hop / self.downscale

    @classmethod
    def read(cls, section: dict[str, Any]) -> AudioVAEConfig:
        """Reads `config.audio_vae`; source of the keys: official `audio_vae/model_configurator.py`.

        Raises:
            UserError: a key is missing, or asks for a network that LTX-2.3 is not.
        """
        root = Section(section, "audio_vae")
        params = root.section("model").section("params")
        network, preprocessing = params.section("ddconfig"), root.section("preprocessing")
        stft, mel = preprocessing.section("stft"), preprocessing.section("mel")
        config = cls(
            sample_rate=params.count("sampling_rate"),
            n_fft=stft.count("filter_length"),
            hop=stft.count("hop_length"),
            mel_bins=network.count("mel_bins"),
            channels=network.count("ch"),
            multipliers=network.counts("ch_mult"),
            num_res_blocks=network.count("num_res_blocks", most=LONGEST),
            latent_channels=network.count("z_channels"),
        )
        for key, value in (
            ("in_channels", STEREO), ("out_ch", STEREO), ("double_z", True), ("attn_resolutions", []),
            ("mid_block_add_attention", False), ("norm_type", "pixel"), ("causality_axis", "height"), ("dropout", 0.0),
        ):  # fmt: skip
            _require(network, key, value)
        network.expect("resamp_with_conv", True)
        network.expect("attn_type", "vanilla")
        _require(stft, "causal", True)
        stft.expect("win_length", config.n_fft)
        mel.expect("n_mel_channels", config.mel_bins)
        mel.expect("mel_fmin", 0)
        mel.expect("mel_fmax", config.sample_rate / 2)
        network.finish(ignored=("resolution", "downsample_time"))  # the official classes do not use them either
        for part, ignored in ((params, ()), (stft, ()), (mel, ()), (preprocessing, ("audio",)), (root, ("variables",))):
            part.finish(ignored=ignored)
        if len(config.multipliers) != LEVELS or config.mel_bins % config.downscale:
            raise _refuse(
                f"The audio VAE's config has {len(config.multipliers)} levels and {config.mel_bins} mel bins; "
                f"LTX-2.3's has {LEVELS} levels and bins that divide by {config.downscale}."
            )
        return config


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes of one generator (mel to waveform).

    Args:
        mel_bins: Mel bins a channel; the first layer takes both channels' side by side.
        initial_channels: Width before the first stage; each stage halves it.
        rates: Samples out for one in, by stage.
        kernels: Taps of each stage's transposed convolution.
        block_kernels: Taps of each residual block's convolutions; a stage has one block each.
        block_dilations: Dilations of each residual block's convolutions.
        final: `tanh`, `clip` or `none`: what keeps the output within -1 and 1.
        final_bias: Whether the last convolution has a bias.
    """

    mel_bins: int
    initial_channels: int
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]
    block_dilations: tuple[tuple[int, ...], ...]
    final: str
    final_bias: bool

    @classmethod
    def read(cls, section: Section, mel_bins: int, bounded: bool) -> GeneratorConfig:
        """Reads `vocoder.vocoder` or `vocoder.bwe`; `bounded` says whether an activation ends the network."""
        for key, value in (("resblock", "AMP1"), ("stereo", True), ("activation", "snakebeta")):
            _require(section, key, value)
        tanh = section.flag("use_tanh_at_final")
        config = cls(
            mel_bins=mel_bins,
            initial_channels=section.count("upsample_initial_channel"),
            rates=section.counts("upsample_rates"),
            kernels=section.counts("upsample_kernel_sizes"),
            block_kernels=section.counts("resblock_kernel_sizes"),
            block_dilations=_dilations(section),
            final=("tanh" if tanh else "clip") if bounded else "none",
            final_bias=section.flag("use_bias_at_final"),
        )
        pairs = len(config.rates) == len(config.kernels) and len(config.block_kernels) == len(config.block_dilations)
        exact = all(k >= r and (k - r) % 2 == 0 for r, k in zip(config.rates, config.kernels, strict=False))
        if not pairs or not exact or not all(size % 2 for size in config.block_kernels):
            raise _refuse(f"The config's '{section.name}' has kernels that do not go with its rates or dilations.")
        if config.initial_channels % 2 ** len(config.rates):
            raise _refuse(
                f"The config's '{section.name}' cannot halve {config.initial_channels} channels at each rate."
            )
        return config


def _dilations(section: Section) -> tuple[tuple[int, ...], ...]:
    """The dilations of each residual block."""
    rows = section.take("resblock_dilation_sizes")
    if not isinstance(rows, list | tuple) or len(rows) > LONGEST:
        raise _refuse(f"The config's '{section.name}' has dilations that are no lists.")
    return tuple(Section({"row": row}, f"{section.name}.resblock_dilation_sizes").counts("row") for row in rows)


@dataclass(frozen=True)
class VocoderConfig:
    """The vocoder and its bandwidth extension.

    Args:
        vocoder: Mel of the audio VAE to `input_rate`.
        bwe: Mel of that waveform to what `output_rate` adds.
        input_rate: Sample rate between the two, in Hz.
        output_rate: Sample rate of the result, in Hz.
        n_fft: Samples of the STFT between the two.
        hop: Its hop.
    """

    vocoder: GeneratorConfig
    bwe: GeneratorConfig
    input_rate: int
    output_rate: int
    n_fft: int
    hop: int

    @property
    def ratio(self) -> int:
        """Output samples for one between the two generators."""
        return self.output_rate // self.input_rate

    @classmethod
    def read(cls, section: dict[str, Any]) -> VocoderConfig:
        """Reads `config.vocoder`; source of the keys: official `audio_vae/model_configurator.py`.

        Raises:
            UserError: a key is missing, or the vocoder is LTX-2's (24 kHz, without bandwidth extension).
        """
        root = Section(section, "vocoder")
        if "bwe" not in root.values:
            raise UserError(
                "The checkpoint's vocoder has no bandwidth extension, as LTX-2 (19B) had none.",
                "Use an LTX-2.3 checkpoint; its config has the sections 'vocoder.vocoder' and 'vocoder.bwe'.",
            )
        base, bwe = root.section("vocoder"), root.section("bwe")
        config = cls(
            vocoder=GeneratorConfig.read(base, VOCODER_MELS, bounded=True),
            bwe=GeneratorConfig.read(bwe, VOCODER_MELS, bounded=False),
            input_rate=bwe.count("input_sampling_rate"),
            output_rate=bwe.count("output_sampling_rate"),
            n_fft=bwe.count("n_fft"),
            hop=bwe.count("hop_length"),
        )
        _require(bwe, "num_mels", VOCODER_MELS)
        bwe.expect("win_size", config.n_fft)
        bwe.expect("apply_final_activation", False)
        base.finish(ignored=("output_sampling_rate",))  # the extension's input rate stands for it
        bwe.finish()
        root.finish()
        if config.output_rate % config.input_rate or prod(config.bwe.rates) != config.hop * config.ratio:
            raise _refuse(
                f"The config's bandwidth extension makes {prod(config.bwe.rates)} samples of a hop of {config.hop} "
                f"from {config.input_rate} to {config.output_rate} Hz, which do not agree."
            )
        return config
