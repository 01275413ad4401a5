"""LTX-2.3's convolutional video VAE and its tiled decoding."""

from mlx_ltxw.models.video_vae.config import VideoVAEConfig
from mlx_ltxw.models.video_vae.model import VideoVAE
from mlx_ltxw.models.video_vae.tiling import Tiling, decode_tiled

__all__ = ["Tiling", "VideoVAE", "VideoVAEConfig", "decode_tiled"]
