"""LTX-2.3's audio-video transformer."""

from mlx_ltxw.models.transformer.block import Block, Shared
from mlx_ltxw.models.transformer.compiled import Call, Compiled, calling, compiles, directly
from mlx_ltxw.models.transformer.config import StreamConfig, TransformerConfig
from mlx_ltxw.models.transformer.forwards import Accompaniment, accompanied_forward, audio_forward, joint_forward
from mlx_ltxw.models.transformer.inputs import EQUALLY, NO_SKIPS, Modality, Rotary, Sharing, Skips, rotary
from mlx_ltxw.models.transformer.model import Transformer
from mlx_ltxw.models.transformer.walk import DIRECT, Blocks, Forward, Walk

__all__ = [
    "DIRECT",
    "EQUALLY",
    "NO_SKIPS",
    "Accompaniment",
    "Block",
    "Blocks",
    "Call",
    "Compiled",
    "Forward",
    "Modality",
    "Rotary",
    "Shared",
    "Sharing",
    "Skips",
    "StreamConfig",
    "Transformer",
    "TransformerConfig",
    "Walk",
    "accompanied_forward",
    "audio_forward",
    "calling",
    "compiles",
    "directly",
    "joint_forward",
    "rotary",
]
