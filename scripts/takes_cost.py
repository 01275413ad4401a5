"""What takes cost at full size: seconds a forward of many sounds on one picture, with random weights on one GPU.

    python -m scripts.takes_cost
    python -m scripts.takes_cost --takes 1 --takes 16 --voices 4

A forward of the base with 1, 2, 4, 8 and 16 takes, each with a text of its own, and all with the base's; of one voice
(an adapter in the weights) and of several (the same adapter at other strengths, beside the weights). Then a guided step
of the dev model's four passes. The counts are measured in turn, so that drift meets all alike. Prints one JSON object a
line; `over_one` is how much longer a count takes than one take with the base's text, which is a locked run.

To try it out on a CPU: --layers 2 --scale 8 --width 128 --height 128 --frames 25 --text-tokens 64 --runs 2
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx

from mlx_ltxw.adapter.apply import Adapters, attach, by_module, round_factors, settle
from mlx_ltxw.adapter.fuse import fuse
from mlx_ltxw.adapter.placing import match
from mlx_ltxw.adapter.rows import attach_rows
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.machine import this_machine
from mlx_ltxw.models.transformer import Transformer, TransformerConfig, Walk
from mlx_ltxw.pipeline.adapters import reads_video
from mlx_ltxw.pipeline.contexts import Contexts
from mlx_ltxw.pipeline.denoise import Denoiser, rotaries
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.guidance import NO_GUIDANCE
from mlx_ltxw.pipeline.latents import Latents, noise
from mlx_ltxw.pipeline.streams import AdaptedStream, batch_layout
from mlx_ltxw.weights.dtype import default_dtype
from scripts.lock_cost import SEED, measured, schedules
from scripts.random_model import (
    GRID,
    environment,
    fill_randomly,
    median,
    model_options,
    random_adapter,
    read_sections,
    report,
)
