"""The upsampler's config, which is the whole `config` of its own file."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.config import LONGEST, Section

RATIONAL = {0.75: Fraction(3, 4), 1.5: Fraction(3, 2), 2.0: Fraction(2), 4.0: Fraction(4)}
"""What the resampler can do (official `spatial_rational_resampler.py`): up by the numerator, down by the other."""

GROUPS = 32
"""Of every group norm."""


@dataclass(frozen=True)
class UpsamplerConfig:
    """Architecture of a latent upsampler (official `upsampler/model_configurator.py`).

    Args:
        in_channels: Channels of a latent.
        mid_channels: Width of all layers between.
        num_blocks_per_stage: Residual blocks before the resampling, and as many after it.
        time: How many times as many frames; the first one, which stands for one picture, stays one.
        space: How many times as many rows and columns.
        rational_resampler: Whether rows and columns are multiplied, then blurred and thinned out.
    """

    in_channels: int
    mid_channels: int
    num_blocks_per_stage: int
    time: int
    space: Fraction
    rational_resampler: bool

    @property
    def name(self) -> str:
        """`spatial-x2`, `spatial-x1.5`, `temporal-x2`; `spatiotemporal-x2` for both."""
        if self.time == 1:
            return f"spatial-x{float(self.space):g}"
        return f"{'temporal' if self.space == 1 else 'spatiotemporal'}-x{self.time}"

    @classmethod
    def read(cls, section: dict[str, Any]) -> UpsamplerConfig:
        """Reads the `config` of an upsampler's file.

        Raises:
            UserError: no upsampler's config, a missing key, or a value that LTX-2.3's upsamplers never have.
        """
        values = Section(section, "upsampler")
        if (kind := values.take("_class_name", "LatentUpsampler")) != "LatentUpsampler":
            raise UserError(f"The file holds a '{kind}', not a latent upsampler.", "Use an LTX-2.3 upsampler's file.")
        values.expect("dims", 3)
        spatial, temporal = values.flag("spatial_upsample"), values.flag("temporal_upsample")
        rational, scale = values.flag("rational_resampler", False), values.number("spatial_scale", 2.0)
        if not spatial and not temporal:
            raise UserError("The upsampler's config upsamples nothing.", "Use an LTX-2.3 upsampler's file.")
        rational = rational and spatial and not temporal  # of no effect with frames, as in the official code
        if scale not in RATIONAL or (spatial and not rational and scale != 2):
            raise UserError(
                f"The upsampler's config has the scale {scale:g}, which LTX-2.3's upsamplers never have.",
                "Use an LTX-2.3 upsampler's file.",
            )
        config = cls(
            in_channels=values.count("in_channels"),
            mid_channels=values.count("mid_channels"),
            num_blocks_per_stage=values.count("num_blocks_per_stage", most=LONGEST),
            time=2 if temporal else 1,
            space=RATIONAL[scale] if spatial else Fraction(1),
            rational_resampler=rational,
        )
        if config.mid_channels % GROUPS:
            raise UserError(
                f"The upsampler's config has a width of {config.mid_channels}, which is no multiple of {GROUPS}.",
                "Use an LTX-2.3 upsampler's file.",
            )
        values.finish()
        return config
