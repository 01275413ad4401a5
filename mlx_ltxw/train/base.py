"""The frozen base of a run: whole in memory, or with the picture's side of its blocks read from disk for each forward.

Under the lock the trained audio stream needs of each block the audio's side alone, forwards and back; the picture's
side runs once, forwards. So that side can be read block by block, as it is for a clip, and the numbers stay the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

from mlx_ltxw.adapter.streamed import blocks_on_demand, change_each
from mlx_ltxw.machine import on_cpu
from mlx_ltxw.models.transformer import Block, Transformer
from mlx_ltxw.train.gradient.recompute import expand
from mlx_ltxw.tree import share
from mlx_ltxw.weights.components import of_adapted_audio
from mlx_ltxw.weights.dtype import default_dtype
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import RESIDENT, Residency


class Base(NamedTuple):
    """The base twice; both share every array.

    Attributes:
        transformer: Makes and watches pictures and sound.
        trained: What an adapter is set beside, its blocks a list. Of blocks that are streamed the audio's side alone
            may be computed with.
    """

    transformer: Transformer
    trained: Transformer


def load_base(model: ModelDir, audio_only: bool, residency: Residency = RESIDENT) -> Base:
    """Reads the base; what stays in memory is there afterwards.

    Args:
        model: The base.
        audio_only: Without the picture's side.
        residency: Which blocks stay whole; of the others the audio's side does.

    Raises:
        UserError: the files do not fit the network.
    """
    dtype = default_dtype()
    transformer = model.load_transformer(dtype, audio_only, residency)
    streamed: Any = blocks_on_demand(transformer)
    if streamed is None:
        if on_cpu():
            expand(transformer, dtype)
        mx.eval(transformer.parameters())
        return Base(transformer, transformer)
    trained = share(transformer)
    trained.transformer_blocks = streamed.layers
    if on_cpu() and model.quantized_layers("transformer"):
        for layer, tensors in zip(streamed.layers, streamed.streamed, strict=True):
            expand(layer, dtype, of_adapted_audio if tensors else lambda _: True)
        change_each(transformer, _expanded)
    mx.eval([value for name, value in transformer.items() if name != "transformer_blocks"], streamed.staying)
    return Base(transformer, trained)


def _expanded(block: Block) -> Block:
    whole: Block = share(block)
    expand(whole, default_dtype())
    return whole
