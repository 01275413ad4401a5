"""What a run is planned for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_ltxw.pipeline.adapters import Chosen
from mlx_ltxw.pipeline.given_needs import NOTHING, Encoded
from mlx_ltxw.pipeline.recipes import Stage
from mlx_ltxw.weights.model_dir import ModelDir


@dataclass(frozen=True)
class Work:
    """What a budget is made for.

    Attributes:
        model: Where the weights are.
        dtype: Of the transformer.
        audio_only: Whether there is no picture.
        stages: Of the run.
        prompts: What is encoded.
        chosen: The adapters of each take.
        distilled: The distilled LoRA, if any.
        locked: Whether adapters act on a second audio stream.
        fuse: Whether they go into quantised weights too.
        sounds: Adapted sounds beside the picture.
        walks: Over the blocks, of all stages and seeds; the passes of a guided step go together.
        tokens: Machines that the video's tokens are spread over.
        tensor: Machines that the blocks' weights are spread over.
        previews: Whether a step's picture and sound are decoded beside the transformer.
        given: What of the clip is not made, but encoded.
        makes_sound, makes_picture: Whether they are decoded.
        quantised: Whether to count as if the blocks had 4 bits.
        reading: Bytes of the process while the largest given picture is read.
        timed: Whether the adapters' strength changes in time.
        voices: Of the adapted sounds: those with different adapters.
        clips: Made one after another.
    """

    model: ModelDir
    dtype: mx.Dtype
    audio_only: bool
    stages: tuple[Stage, ...]
    prompts: Sequence[str]
    chosen: Sequence[Chosen]
    distilled: Chosen | None
    locked: bool
    fuse: bool
    sounds: int
    walks: int
    tokens: int = 1
    tensor: int = 1
    previews: bool = False
    given: Encoded = NOTHING
    makes_sound: bool = True
    makes_picture: bool = True
    quantised: bool = False
    reading: int = 0
    timed: bool = False
    voices: int = 1
    clips: int = 1

    @property
    def beside(self) -> bool:
        """Whether adapters stay beside all weights; the distilled LoRA does so of packed ones alone."""
        return self.timed or self.voices > 1
