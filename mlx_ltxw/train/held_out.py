"""Clips that are kept back: which, and what the adapter's loss is on them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_ltxw.models.transformer import Transformer
from mlx_ltxw.pipeline.geometry import LatentGrid
from mlx_ltxw.printing import counted
from mlx_ltxw.prompts.registers import parse
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.data.clip import TrainingClip
from mlx_ltxw.train.gradient.batches import Batches
from mlx_ltxw.train.gradient.step import Objective

_STREAM = 2  # of random numbers; see `gradient.batches`
_MOST_MEASURED = 32
_TOLERANCE = 2.0  # whole voices may hold this many times the share that was asked for


def hold_out(clips: Sequence[TrainingClip], share: float, seed: int) -> tuple[set[int], str]:
    """Chooses the clips that are not trained on: whole voices if that keeps near the share, else single clips.

    Args:
        clips: All, in their order.
        share: How many of them are kept back, 0 to 1.
        seed: Which ones, drawn with this seed.

    Returns:
        Their indices, and a sentence that says how they were chosen; none, and '', for a share of 0.
    """
    if not share or len(clips) < 2:
        return set(), ""
    random = np.random.Generator(np.random.PCG64([seed, _STREAM]))
    voices: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        voices[clip.voice or "", "+".join(turn.speaker for turn in parse(clip.caption).turns)].append(index)
    wanted = max(1, round(share * len(clips)))
    chosen: list[list[int]] = []
    for number in random.permutation(len(voices)):
        voice = list(voices.values())[number]
        count = sum(map(len, chosen))
        if count < wanted and count + len(voice) <= _TOLERANCE * wanted and len(chosen) + 1 < len(voices):
            chosen.append(voice)
    if chosen:
        kept = {index for voice in chosen for index in voice}
        told = f"{counted(len(kept), 'clip')} of {len(chosen)} of {len(voices)} voices"
        return kept, f"Kept back to be measured: {told}."
    kept = set(map(int, random.permutation(len(clips))[: min(wanted, len(clips) - 1)]))
    return kept, f"Kept back to be measured: {counted(len(kept), 'clip')}, whose voices are trained on in others."


class HeldOut:
    """Measures the loss, with the same noise each time, so that one figure can be compared with the next.

    Args:
        files: Cached clips; the first `_MOST_MEASURED` of a shuffled order are measured.
        base: The frozen transformer.
        grid: Pixels and seconds of one latent token.
        config: The run's training options.
        objective: The run's loss.
    """

    def __init__(
        self, files: Sequence[Path], base: Transformer, grid: LatentGrid, config: TrainConfig, objective: Objective
    ) -> None:
        count = min(len(files), _MOST_MEASURED)
        self._objective = objective
        one_by_one = dataclasses.replace(config, batch_size=1, accumulation=count)
        self._groups = Batches(files, base, grid, one_by_one).step(0)
        self._weight = mx.array(1 / count)

    def loss(self, parameters: mx.array) -> float:
        """The mean audio loss of an adapter (N,)."""
        total = 0.0
        for group in self._groups:
            _, losses = self._objective(parameters, group, self._weight)
            total += float(losses[0])
            self._objective.whole.done()
        return total
