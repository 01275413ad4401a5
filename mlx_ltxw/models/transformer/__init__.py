"""LTX-2.3's audio-video transformer."""

from mlx_ltxw.models.transformer.block import Block, Shared
from mlx_ltxw.models.transformer.config import StreamConfig, TransformerConfig
from mlx_ltxw.models.transformer.inputs import EQUALLY, NO_SKIPS, Modality, Rotary, Sharing, Skips, rotary
from mlx_ltxw.models.transformer.model import Accompaniment, Transformer
from mlx_ltxw.models.transformer.walk import DIRECT, Blocks, Walk

__all__ = [
    "DIRECT",
    "EQUALLY",
    "NO_SKIPS",
    "Accompaniment",
    "Block",
    "Blocks",
    "Modality",
    "Rotary",
    "Shared",
    "Sharing",
    "Skips",
    "StreamConfig",
    "Transformer",
    "TransformerConfig",
    "Walk",
    "rotary",
]
