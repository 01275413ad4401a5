"""LTX-2.3's latent upsamplers: more rows and columns, or more frames, of a video latent."""

from mlx_ltxw.models.upsampler.config import UpsamplerConfig
from mlx_ltxw.models.upsampler.model import Upsampler, upsample

__all__ = ["Upsampler", "UpsamplerConfig", "upsample"]
