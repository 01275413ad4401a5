"""The official latent upsamplers at small sizes, with random weights; channels last in and out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests.reference.video import channels_first, channels_last
from tests.reference.weights import randomise

from ltx_core.model.upsampler.model import LatentUpsampler, upsample_video
from ltx_core.model.upsampler.model_configurator import LatentUpsamplerConfigurator

KINDS: dict[str, dict[str, Any]] = {
    "spatial-x2": {"spatial_upsample": True, "temporal_upsample": False, "spatial_scale": 2.0},
    "spatial-x1.5": {
        "spatial_upsample": True, "temporal_upsample": False, "spatial_scale": 1.5, "rational_resampler": True,
    },
    "temporal-x2": {"spatial_upsample": False, "temporal_upsample": True},
}  # fmt: skip


def config(kind: str, channels: int = 8, width: int = 64, blocks: int = 1) -> dict[str, Any]:
    """As in an official file, but small."""
    shape = {"in_channels": channels, "mid_channels": width, "num_blocks_per_stage": blocks, "dims": 3}
    return {"_class_name": "LatentUpsampler", **shape, **KINDS[kind]}


def official_upsampler(values: dict[str, Any], seed: int = 0) -> LatentUpsampler:
    """The official class with random weights."""
    return randomise(LatentUpsamplerConfigurator.from_config(values), seed)


@torch.no_grad()
def forward(model: LatentUpsampler, latent: np.ndarray) -> np.ndarray:
    """(B, F, H, W, C) -> (B, F', H', W', C)."""
    return channels_last(model(channels_first(latent)))


@torch.no_grad()
def between_statistics(model: LatentUpsampler, video_encoder: Any, latent: np.ndarray) -> np.ndarray:
    """`upsample_video`: un-normalised, upsampled, normalised."""
    return channels_last(upsample_video(channels_first(latent), video_encoder, model))


def write_official(path: Path, values: dict[str, Any], seed: int = 0, **metadata: str) -> LatentUpsampler:
    """Writes a file as the official ones are, bf16, and gives the class with the same weights, fp32."""
    model = official_upsampler(values, seed)
    state = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path, {"config": json.dumps(values), **metadata})
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model
