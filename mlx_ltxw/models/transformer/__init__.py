"""LTX-2.3's audio-video transformer."""

from mlx_ltxw.models.transformer.block import Block, Shared
from mlx_ltxw.models.transformer.config import StreamConfig, TransformerConfig
from mlx_ltxw.models.transformer.inputs import NO_SKIPS, Modality, Rotary, Skips, rotary
from mlx_ltxw.models.transformer.model import Transformer
from mlx_ltxw.models.transformer.walk import DIRECT, Blocks, Walk

__all__ = [
    "DIRECT",
    "NO_SKIPS",
    "Block",
    "Blocks",
    "Modality",
    "Rotary",
    "Shared",
    "Skips",
    "StreamConfig",
    "Transformer",
    "TransformerConfig",
    "Walk",
    "rotary",
]
