"""Transformers whose blocks are quantised as `convert -q` does it, and how the pipeline walks."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.convert.quantize import Quantization, in_blocks
from mlx_ltxw.machine import this_machine
from mlx_ltxw.models.packed import quantize
from mlx_ltxw.models.transformer import Transformer, Walk
from mlx_ltxw.tree import size_of

PACKINGS = ("8", "4", "nvfp4", "mxfp4", "mxfp8")


def walk() -> Walk:
    """As the pipeline has it."""
    return Walk.bounded(this_machine().in_pieces)


def packed_copy(model: Transformer, packing: str) -> Transformer:
    """A model whose blocks are quantised; it shares every other array."""
    how, copy = Quantization.parse(packing), Transformer(model.config)
    copy.update(model.parameters())

    def chosen(path: str, layer: nn.Module) -> bool | dict[str, Any]:
        fits = isinstance(layer, nn.Linear) and in_blocks("transformer", path, size_of(layer)[1], how)
        return dict(how.settings) if fits else False

    quantize(copy, chosen)
    mx.eval(copy.parameters())
    return copy
