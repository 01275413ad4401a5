"""What is measured: which size of the networks, which clips, how often."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_ltxw.machine import on_cpu
from mlx_ltxw.models.transformer import Modality, Transformer, TransformerConfig
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.weights.dtype import default_dtype
from scripts.random_model import GRID, REAL_CONFIG, as_loaded, fill_randomly, inputs, mlx_inputs, read_sections

SHRUNK = {"tiny": (2, 16), "half": (None, 2), "22b": (None, 1)}
"""Blocks, and what widths are divided by."""
CLIPS = ((192, 192, 97), (704, 480, 97), (768, 512, 121))
SMALL_CLIPS = ((64, 64, 9), (128, 128, 17))
TEXT = 1024


@dataclass(frozen=True)
class Setting:
    """A benchmark's setting.

    Attributes:
        size: `tiny`, `half` or `22b`.
        runs: Timed runs of each work.
        clips: Width, height, frames.
        official: Whether the official classes run beside ours, if they can be imported.
        layers: Blocks of the transformer, in place of the size's own; 0 for those.
        folder: Where model directories are, or are made; None for a temporary one.
        bits: Of the weights of a model directory: 4, 8, or 0 for bf16.
    """

    size: str
    runs: int
    clips: tuple[tuple[int, int, int], ...]
    official: bool = True
    layers: int = 0
    folder: Path | None = None
    bits: int = 0

    @cached_property
    def sections(self) -> dict[str, Any]:
        """The checkpoint's config at this size."""
        layers, scale = SHRUNK[self.size]
        return read_sections(REAL_CONFIG, self.layers or layers, scale)

    @property
    def config(self) -> TransformerConfig:
        """The transformer's."""
        return TransformerConfig.read(self.sections["transformer"])

    @property
    def dtype(self) -> mx.Dtype:
        """Of this machine."""
        return default_dtype()

    @property
    def rate_size(self) -> int:
        """Of the products that tell the machine's rates."""
        return 1024 if on_cpu() else 8192

    def geometries(self) -> dict[str, Geometry]:
        """By their name."""
        return {
            f"{width}x{height}x{frames}": Geometry(width, height, frames, 24.0, GRID)
            for width, height, frames in self.clips
        }

    @cached_property
    def model(self) -> Transformer:
        """The transformer, with random weights, as a run has it; all parts share it."""
        model = Transformer(self.config)
        fill_randomly(model, self.dtype)
        return as_loaded(model)

    def modalities(self, geometry: Geometry) -> tuple[Modality, Modality]:
        """Random tokens and text of both streams."""
        video, audio = mlx_inputs(self.config, inputs(self.config, geometry, TEXT), self.dtype)
        mx.eval(video, audio)
        return video, audio
