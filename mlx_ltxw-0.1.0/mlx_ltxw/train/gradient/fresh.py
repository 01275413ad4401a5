"""A new adapter: B is zero, so that training starts from the base model exactly."""

from __future__ import annotations

import math
import zlib

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_ltxw.adapter.deltas import LowRank
from mlx_ltxw.adapter.formats import Adapter
from mlx_ltxw.adapter.names import kind
from mlx_ltxw.errors import UserError
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.tree import linears, size_of


def targets(model: nn.Module, config: TrainConfig) -> list[str]:
    """The linears to adapt, by official path, sorted.

    An audio-only model has no `video_to_audio_attn`; whatever else is missing is an error.

    Raises:
        UserError: the model has none of the modules.
    """
    found = [
        path
        for path in linears(model)
        if kind(path) in config.modules and any(path.endswith(f".{name}") for name in config.projections)
    ]
    if not found:
        raise UserError(
            f"The model has no module named {' or '.join(config.modules)} to train.",
            "Train with the module audio_attn1 or audio_attn2, or on clips with a picture.",
        )
    return sorted(found)


def fresh_adapter(model: nn.Module, config: TrainConfig) -> Adapter:
    """An untrained adapter for a model, fp32.

    A is uniform in +-1/sqrt(in), which is what PEFT draws (`kaiming_uniform_` with a = sqrt(5)). Each module has random
    numbers of its own, which depend on the seed and its name alone.
    """
    here = linears(model)
    deltas = {}
    for path in targets(model, config):
        out, into = size_of(here[path])
        random = np.random.Generator(np.random.PCG64([config.seed, zlib.crc32(path.encode())]))
        bound = 1 / math.sqrt(into)
        a = (random.random((config.rank, into)) * 2 - 1) * bound
        deltas[path] = LowRank(mx.array(a.astype(np.float32)), mx.zeros((out, config.rank)), config.scale)
    return Adapter("new", "official", dict(deltas), alphas=dict.fromkeys(deltas, config.alpha))
