"""The video VAE's config: the `vae` section of the checkpoint's own config."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.config import LONGEST, Section

STRIDES = {"compress_time": (2, 1, 1), "compress_space": (1, 2, 2), "compress_all": (2, 2, 2)}
"""(time, height, width) strides, by the start of a block's name."""

ENCODER_BLOCKS = {
    "res_x": ("num_layers",),
    "res_x_y": ("multiplier",),
    "compress_time": (),
    "compress_space": (),
    "compress_all": (),
    "compress_all_x_y": ("multiplier",),
    "compress_time_res": ("multiplier",),
    "compress_space_res": ("multiplier",),
    "compress_all_res": ("multiplier",),
    "attn": (),
}
DECODER_BLOCKS = {
    "res_x": ("num_layers",),
    "res_x_y": ("multiplier",),
    "compress_time": ("multiplier",),
    "compress_space": ("multiplier",),
    "compress_all": ("multiplier",),
    "attn": (),
}
"""Block kind -> the numbers it needs."""


@dataclass(frozen=True)
class BlockConfig:
    """One entry of `encoder_blocks` or `decoder_blocks`.

    Args:
        kind: A key of ENCODER_BLOCKS or DECODER_BLOCKS.
        num_layers: Residual blocks in a `res_x`.
        multiplier: The encoder multiplies its width by it, the decoder divides by it.
        residual: Adds the rearranged input to a decoder `compress_all`.
    """

    kind: str
    num_layers: int = 0
    multiplier: int = 1
    residual: bool = False

    @property
    def stride(self) -> tuple[int, int, int]:
        """(time, height, width) resampling."""
        return next((stride for start, stride in STRIDES.items() if self.kind.startswith(start)), (1, 1, 1))

    @classmethod
    def read(cls, entry: Any, needs: dict[str, tuple[str, ...]], name: str) -> BlockConfig:
        """Reads `[kind, number of layers]` or `[kind, {option: value}]`; every option must have an effect."""
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            raise UserError(f"The checkpoint's config has a damaged block in '{name}'.", "Use an LTX-2.3 checkpoint.")
        kind, options = entry
        if not isinstance(kind, str) or kind not in needs:
            raise UserError(
                f"The checkpoint's config uses the block '{kind}' in '{name}', which LTX-2.3 never does.",
                f"Only {', '.join(needs)} are implemented; use an LTX-2.3 checkpoint.",
            )
        section = Section({"num_layers": options} if isinstance(options, int) else options, f"{name}.{kind}")
        section.expect("inject_noise", False)
        numbers = {key: section.count(key, most=LONGEST) for key in needs[kind]}
        if needs is DECODER_BLOCKS and kind == "compress_all":
            residual = section.flag("residual", False)
        else:
            section.expect("residual", False)
            residual = False
        section.finish()
        return cls(kind, **numbers, residual=residual)


@dataclass(frozen=True)
class VideoVAEConfig:
    """Architecture of the convolutional video VAE (LTX-2.3's `CausalVideoAutoencoder`).

    Args:
        latent_channels: Channels of a latent, and the encoder's first width.
        log_var_channels: Extra channels the encoder predicts after the means.
        encoder_blocks: In running order.
        decoder_blocks: In running order, the reverse of the config's list.
        decoder_base_channels: The decoder's last width.
        patch_size: Pixels per side that become channels before the first convolution.
        padding_mode: Spatial padding of every 3x3x3 convolution, `zeros` or `reflect`.
        causal_decoder: Whether a decoded frame may look at past frames alone.
    """

    latent_channels: int
    log_var_channels: int
    encoder_blocks: tuple[BlockConfig, ...]
    decoder_blocks: tuple[BlockConfig, ...]
    decoder_base_channels: int
    patch_size: int
    padding_mode: str
    causal_decoder: bool

    @property
    def scale(self) -> tuple[int, int, int]:
        """(time, height, width): F frames become (F - 1) / time + 1 latent frames, H rows H / height."""
        time, side = _resampling(self.encoder_blocks)
        return time, side * self.patch_size, side * self.patch_size

    @property
    def bottleneck_channels(self) -> int:
        """The decoder's first width (official `conv_video_decoder.py:_decoder_bottleneck_channels`)."""
        return self.decoder_base_channels * prod(block.multiplier for block in self.decoder_blocks)

    @classmethod
    def read(cls, section: dict[str, Any]) -> VideoVAEConfig:
        """Reads `config["vae"]`.

        Raises:
            UserError: for a missing key, LTX-2.5's diffusion decoder, a timestep-conditioned decoder (19B) or a value
                that LTX-2.3 never uses.
        """
        values = Section(section, "vae")
        _refuse_other_generations(values)
        for key, only in _FIXED.items():
            values.expect(key, only)
        latent_channels = values.count("latent_channels")
        # The official encoder starts at `latent_channels` and never reads this key, so a different value is a mistake.
        values.expect("encoder_base_channels", latent_channels)
        values.expect("latent_log_var", "uniform", "constant", "per_channel")
        values.expect("spatial_padding_mode", "zeros", "reflect")
        log_var_channels = latent_channels if values.take("latent_log_var") == "per_channel" else 1
        config = cls(
            latent_channels=latent_channels,
            log_var_channels=log_var_channels,
            encoder_blocks=_read_blocks(values, "encoder_blocks", ENCODER_BLOCKS),
            decoder_blocks=_read_blocks(values, "decoder_blocks", DECODER_BLOCKS)[::-1],
            decoder_base_channels=values.count("decoder_base_channels"),
            patch_size=values.count("patch_size"),
            padding_mode=values.take("spatial_padding_mode"),
            causal_decoder=values.flag("causal_decoder"),
        )
        values.finish()
        if _resampling(config.encoder_blocks) != _resampling(config.decoder_blocks):
            raise UserError(
                "The checkpoint's 'vae.encoder_blocks' and 'vae.decoder_blocks' resample by different factors.",
                "Use the config that ships inside the LTX-2.3 checkpoint.",
            )
        return config


_FIXED: dict[str, Any] = {
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "norm_layer": "pixel_norm",
    "scaling_factor": 1.0,
    "use_quant_conv": False,
    "normalize_latent_channels": False,
}


def _refuse_other_generations(values: Section) -> None:
    if (name := values.take("_class_name")) != "CausalVideoAutoencoder":
        raise UserError(
            f"The checkpoint's video VAE is a '{name}' (LTX-2.5's diffusion decoder), which is not implemented.",
            "Use an LTX-2.3 checkpoint, whose video VAE is a 'CausalVideoAutoencoder'.",
        )
    if values.take("timestep_conditioning"):
        raise UserError(
            "The checkpoint's video decoder is conditioned on a timestep (LTX-2 19B), which is not implemented.",
            "Use an LTX-2.3 checkpoint, whose config has 'vae.timestep_conditioning' false.",
        )


def _resampling(blocks: tuple[BlockConfig, ...]) -> tuple[int, int]:
    return prod(block.stride[0] for block in blocks), prod(block.stride[1] for block in blocks)


def _read_blocks(values: Section, key: str, needs: dict[str, tuple[str, ...]]) -> tuple[BlockConfig, ...]:
    entries = values.take(key)
    if not isinstance(entries, list) or not 1 <= len(entries) <= LONGEST:
        raise UserError(f"The checkpoint's config has no list of blocks in 'vae.{key}'.", "Use an LTX-2.3 checkpoint.")
    return tuple(BlockConfig.read(entry, needs, f"vae.{key}") for entry in entries)
