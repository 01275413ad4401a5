"""Which clips a step sees, and in what form: a function of the seed and the step alone, so that runs can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.transformer import Rotary, Transformer
from mlx_ltxw.pipeline.denoise import rotaries
from mlx_ltxw.pipeline.geometry import Geometry, LatentGrid
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.data.cache import CachedClip, load_clip
from mlx_ltxw.train.gradient.step import DTYPES, Group

_ORDER, _NOISE = 0, 1  # what a stream of random numbers is for
KEPT_BYTES = 4 << 30
"""Of clips that stay in memory from step to step, at most."""

Shape = tuple[int, int, int, float, bool]


def clip_order(seed: int, clips: int, start: int, count: int) -> list[int]:
    """Clips `start` to `start + count` of an endless row in which every clip comes once in each round, shuffled."""
    order: list[int] = []
    for position in range(start, start + count):
        turn, position_in_turn = divmod(position, clips)
        if not order or position_in_turn == 0:
            shuffled = np.random.Generator(np.random.PCG64([seed, _ORDER, turn])).permutation(clips)
        order.append(int(shuffled[position_in_turn]))
    return order


def noise_keys(seed: int, step: int, count: int) -> np.ndarray:
    """(count, 2) uint32: a key of MLX's random numbers for each clip of a step."""
    return np.stack([
        np.random.SeedSequence([seed, _NOISE, step, slot]).generate_state(2, np.uint32) for slot in range(count)
    ])  # fmt: skip


class Batches:
    """The data as the step takes it.

    Args:
        files: The cached clips, in an order that does not depend on the machine.
        transformer: Gives the numbers of the rotations, and tells whether there is a video stream.
        grid: Pixels and seconds of one latent token.
        config: The run's training options.
        share: `(rank, machines)`: this machine's part of each batch.
        room: Bytes of clips that may stay in memory; more are read anew for each step.
    """

    def __init__(
        self,
        files: Sequence[Path],
        transformer: Transformer,
        grid: LatentGrid,
        config: TrainConfig,
        share: tuple[int, int] = (0, 1),
        room: int = KEPT_BYTES,
    ) -> None:
        self.files, self.transformer, self.grid, self.config = list(files), transformer, grid, config
        self.rank, self.machines = share
        if config.batch_size < self.machines:
            raise UserError(
                f"A batch of {config.batch_size} clips cannot be shared by {self.machines} machines.",
                f"Give {{field:batch_size={self.machines}}} or more, or use fewer machines.",
            )
        self._keep = sum(file.stat().st_size for file in files) <= room
        self._kept: dict[int, CachedClip] = {}
        self._rotations: dict[Shape, tuple[Rotary | None, Rotary]] = {}

    def step(self, step: int) -> list[Group]:
        """This machine's groups of the step that follows `step` steps: one for each shape in each batch."""
        config = self.config
        count = config.clips_per_step
        order = clip_order(config.seed, len(self.files), step * count, count)
        keys = noise_keys(config.seed, step, count)
        return [
            self._group(shape, [order[slot] for slot in chosen], keys[chosen])
            for shape, chosen in self._chosen(order, self.rank)
        ]

    def rounds(self, step: int) -> int:
        """How many groups that step has on the machine that has most."""
        count = self.config.clips_per_step
        order = clip_order(self.config.seed, len(self.files), step * count, count)
        return max(len(self._chosen(order, rank)) for rank in range(self.machines))

    def _chosen(self, order: Sequence[int], rank: int) -> list[tuple[Shape, list[int]]]:
        """A machine's groups of a step: their shapes, and their places in its order."""
        size = self.config.batch_size
        groups: list[tuple[Shape, list[int]]] = []
        for start in range(0, len(order), size):
            by_shape: dict[Shape, list[int]] = {}
            for slot in range(start, start + size)[rank :: self.machines]:
                by_shape.setdefault(_shape(self._clip(order[slot])), []).append(slot)
            groups += by_shape.items()
        return groups

    def _clip(self, index: int) -> CachedClip:
        if index in self._kept:
            return self._kept[index]
        clip = load_clip(self.files[index])
        if self._keep:
            self._kept[index] = clip
        return clip

    def _group(self, shape: Shape, indices: list[int], keys: np.ndarray) -> Group:
        clips = [self._clip(index) for index in indices]
        video_rotary, audio_rotary = self._rotary(shape)
        group = Group(
            audio=mx.stack([clip.audio for clip in clips]),
            audio_context=mx.stack([clip.audio_context for clip in clips]),
            audio_rotary=audio_rotary,
            keys=mx.array(keys),
        )
        if not shape[-1]:
            return group
        return group._replace(
            video=mx.stack([clip.video for clip in clips if clip.video is not None]),
            video_context=mx.stack([clip.video_context for clip in clips]),
            video_rotary=video_rotary,
        )

    def _rotary(self, shape: Shape) -> tuple[Rotary | None, Rotary]:
        if shape not in self._rotations:
            geometry = Geometry(*shape[:4], self.grid)
            self._rotations[shape] = rotaries(self.transformer, geometry, DTYPES[self.config.activations])
        return self._rotations[shape]


def _shape(clip: CachedClip) -> Shape:
    return clip.width, clip.height, clip.frames, clip.frame_rate, clip.video is not None
