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
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.gradient.recompute import expand
from mlx_ltxw.tree import share
from mlx_ltxw.weights.components import of_adapted_audio
from mlx_ltxw.weights.dtype import default_dtype
from mlx_ltxw.weights.gathering import GatheredLayers
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import RESIDENT, Residency
from mlx_ltxw.world import World


class Base(NamedTuple):
    """The base twice; both share every array.

    Attributes:
        transformer: Makes and watches pictures and sound.
        trained: What an adapter is set beside, its blocks a list. Of blocks that are streamed the audio's side alone
            may be computed with.
        shared: The blocks, where some rows of their matrices are on each machine; None where they are not.
    """

    transformer: Transformer
    trained: Transformer
    shared: GatheredLayers[Block] | None = None


def load_base(
    model: ModelDir, audio_only: bool, residency: Residency = RESIDENT, world: World | None = None
) -> Base:  # fmt: skip
    """Reads the base; what stays in memory is there afterwards.

    Args:
        model: The base.
        audio_only: Without the picture's side.
        residency: Which blocks stay whole; of the others the audio's side does (`audio_stays`).
        world: Machines that each hold some rows of what does not stay, and gather it when it is needed; None to read
            it from disk.

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
    gathered = None
    if world is not None:
        transformer.transformer_blocks = gathered = GatheredLayers(streamed, world)
    if on_cpu() and model.quantized_layers("transformer"):
        whole = of_adapted_audio if residency.audio_stays else _nothing
        for layer, tensors in zip(streamed.layers, streamed.streamed, strict=True):
            expand(layer, dtype, whole if tensors else lambda _: True)
        change_each(transformer, _expanded)
    held = streamed if gathered is None else gathered
    mx.eval([value for name, value in transformer.items() if name != "transformer_blocks"], held.staying)
    return Base(transformer, trained, gathered)


def shared_residency(config: TrainConfig) -> Residency:
    """What every machine holds whole of a base that machines share: where blocks are computed again nothing but small
    parameters, and otherwise what the way back uses."""
    return Residency(0, audio_stays=not config.gradient_checkpointing, vectors_stay=True)


def _nothing(_: str) -> bool:
    return False


def _expanded(block: Block) -> Block:
    whole: Block = share(block)
    expand(whole, default_dtype())
    return whole
