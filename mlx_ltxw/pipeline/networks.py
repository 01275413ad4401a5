"""The networks of a run: loaded when a stage needs them, then let go, or kept for the next run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import mlx.core as mx

from mlx_ltxw.models.audio_vae import AudioVAE, VocoderWithBWE
from mlx_ltxw.models.ops.device import backend
from mlx_ltxw.models.transformer import Block, Transformer
from mlx_ltxw.models.transformer.merged import MERGED, filled_later, merge
from mlx_ltxw.models.transformer.tensor import TensorShare
from mlx_ltxw.models.upsampler import Upsampler
from mlx_ltxw.models.video_vae import VideoVAE
from mlx_ltxw.pipeline.contexts import Contexts, encode_prompts, joined
from mlx_ltxw.pipeline.prompt_cache import PromptCache, default_folder
from mlx_ltxw.pipeline.split import WHOLE_RUN, Split
from mlx_ltxw.tree import share
from mlx_ltxw.weights.arriving import Arriving
from mlx_ltxw.weights.dtype import outside_transformer
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import RESIDENT, Residency, StreamedLayers
from mlx_ltxw.world import Turns

Network = TypeVar("Network")

_CONTEXTS = 32
"""Prompts whose contexts are remembered."""


class Networks:
    """A model's networks in one dtype.

    Attributes:
        transformer_dtype: As asked for.
        dtype: Of all others but the vocoder.
        encoded: Prompts that the last call of `contexts` had to encode; the others were known.
        begins: Is called with a network's name before it is loaded, and before one that was kept is used again.

    Args:
        model: Where the weights are.
        dtype: Of weights and activations; the vocoder is fp32 in any case, and fp16 is the transformer's alone.
        keep: Whether networks stay in memory once they are loaded. Otherwise each goes when its user is done.
        transformer: One that is in memory already, of the same weights; it is never changed.
        residency: Which of the transformer's blocks stay in memory; None leaves it to each run's plan.
    """

    def __init__(
        self,
        model: ModelDir,
        dtype: mx.Dtype,
        keep: bool = False,
        transformer: Transformer | None = None,
        residency: Residency | None = None,
    ) -> None:
        self.model = model
        self.transformer_dtype = dtype
        self.dtype = outside_transformer(dtype)
        self.keep = keep
        self.residency = residency
        self._transformer = transformer
        self._kept: dict[str, Any] = {}
        self._contexts: dict[str, tuple[mx.array, mx.array]] = {}
        self.encoded = 0
        self.begins: Callable[[str], None] = _unheard

    def transformer(self, audio_only: bool, residency: Residency = RESIDENT, split: Split = WHOLE_RUN) -> Transformer:
        """The transformer; of one that is kept a clone, so that a run's adapters and settings end with the run.

        Args:
            audio_only: Without the video side.
            residency: Which blocks stay in memory, unless these networks have a rule of their own.
            split: With some of the heads, these alone are loaded.
        """
        resident = self._transformer
        if resident is not None and resident.with_video != audio_only:
            return share(resident)
        residency = self.residency or residency
        shard = split.shard(self.model.network_config("transformer"))
        shared = None if shard is None else (shard, split.turns)
        self.begins("transformer")
        name = f"transformer {audio_only} {residency} {shard}"
        for other in [kept for kept in self._kept if kept.startswith("transformer") and kept != name]:
            del self._kept[other]  # there may be no room for both
        network = self._once(name, lambda: self._loaded(audio_only, residency, shared))
        if isinstance(blocks := network.transformer_blocks, StreamedLayers):
            blocks.forget_ahead()
        return share(network) if self.keep else network

    def _loaded(self, audio_only: bool, residency: Residency, shared: tuple[TensorShare, Turns] | None) -> Transformer:
        network = self.model.load_transformer(self.transformer_dtype, audio_only, residency, shared, arriving=True)
        if shared is None and MERGED[backend()]:
            lay_together(network)
        return network

    def video_vae(self, part: str = "video_vae") -> VideoVAE:
        """The video VAE; `part` is what begins with it, where that is not decoding (`needs.PARTS`)."""
        self.begins(part)
        return self._once("video_vae", lambda: self.model.load_video_vae(self.dtype))

    def upsampler(self, kind: str) -> Upsampler:
        """A latent upsampler of the model's."""
        self.begins(f"upsampler {kind}")
        return self._once(f"upsampler {kind}", lambda: self.model.load_upsampler(kind, self.dtype))

    def audio_vae(self, part: str = "audio_vae") -> AudioVAE:
        """The audio VAE; `part` as for `video_vae`."""
        self.begins(part)
        return self._once("audio_vae", lambda: self.model.load_audio_vae(self.dtype))

    def vocoder(self) -> VocoderWithBWE:
        """The vocoder, fp32."""
        self.begins("vocoder")
        return self._once("vocoder", self.model.load_vocoder)

    def contexts(self, prompts: Sequence[str], cache: bool = True) -> Contexts:
        """Text contexts of the prompts, encoded once, for later processes too (`PromptCache`); the text encoder is gone
        from memory afterwards.

        Args:
            prompts: The prompt and, where guidance needs it, the negative prompt.
            cache: Whether they are read from disk, and kept there.

        Raises:
            UserError: a prompt is longer than the model reads.
        """
        disk = PromptCache(self.model, self.dtype, default_folder() if cache else None)
        made = {prompt: self._contexts.get(prompt) or disk.read(prompt) for prompt in prompts}
        missing = [prompt for prompt, context in made.items() if context is None]
        self.encoded = len(missing)
        if missing:
            encoded = encode_prompts(self.model, missing, self.dtype, self.begins)
            for number, prompt in enumerate(missing):
                made[prompt] = encoded.row(number)
                disk.write(prompt, encoded.row(number))
        rows = {prompt: context for prompt, context in made.items() if context is not None}
        self._contexts = dict([*self._contexts.items(), *rows.items()][-max(_CONTEXTS, len(rows)) :])
        return joined(prompts, [rows[prompt] for prompt in prompts])

    @contextmanager
    def announcing(self, begins: Callable[[str], None]) -> Iterator[None]:
        """Who is called as `begins` for a while."""
        before, self.begins = self.begins, begins
        try:
            yield
        finally:
            self.begins = before

    def lent(self, transformer: Transformer) -> Networks:
        """Networks of a transformer that is in memory already, which know the prompts that these know."""
        other = Networks(self.model, self.transformer_dtype, transformer=transformer)
        other._contexts = dict(self._contexts)
        return other

    def close(self) -> None:
        """Lets everything go."""
        self._kept.clear()
        self._contexts.clear()
        self._transformer = None
        mx.clear_cache()

    def _once(self, name: str, load: Callable[[], Network]) -> Network:
        """Loads a network, or gives the one that was kept."""
        if name in self._kept:
            kept: Network = self._kept[name]
            return kept
        network = load()
        if self.keep:
            self._kept[name] = network
        return network


def lay_together(network: Transformer) -> None:
    """Lays a transformer's linears of one input together (`models/transformer/merged.py`), block by block: those of
    blocks that are still on their way when they have come, and those of blocks that are read anew whenever they are."""
    blocks: Any = network.transformer_blocks
    if isinstance(blocks, StreamedLayers):
        blocks.arrange = partial(merge, later=True)
        for block, read_anew in zip(blocks.layers, blocks.streamed, strict=True):
            if not read_anew:
                merge(block)
    elif isinstance(blocks, Arriving):
        network.transformer_blocks = blocks.then(dict(enumerate(map(_merged_when_come, blocks))))
    else:
        for block in blocks:
            merge(block)
    mx.clear_cache()


def _merged_when_come(block: Block) -> Callable[[], None]:
    before = share(block)

    def merged() -> Block:
        merge(before)
        return before

    merge(block, later=True)
    return filled_later(block, merged)


def _unheard(_: str) -> None:
    """Nobody wants to know."""
