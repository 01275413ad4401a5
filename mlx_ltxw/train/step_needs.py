"""What one step of training holds beside the base's weights, counted array by array.

Under the lock each block of the adapted sound keeps for the way back what `pullbacks.py` keeps; that was compared with
MLX's own count at the real widths, block by block (`docs/log.md`). What a device holds of the blocks at work comes
beside that, as it was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from mlx_ltxw.machine import Machine
from mlx_ltxw.models.transformer import Transformer
from mlx_ltxw.models.transformer.compiled import COMPILED_UP_TO
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.needs import PROMPT, Subject, walking
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.gradient.fresh import targets
from mlx_ltxw.train.gradient.step import AHEAD
from mlx_ltxw.tree import linears, size_of
from mlx_ltxw.weights.components import of_adapted_audio
from mlx_ltxw.weights.dtype import default_dtype
from mlx_ltxw.weights.memory import layer_bytes
from mlx_ltxw.weights.model_dir import ModelDir

_FLOAT32 = 4
_STATE = 3
"""Vectors of all trained numbers that a run holds: themselves and two moments."""
_OPTIMIZER = 5
"""Vectors that the optimizer makes on its way: the gradient, and four of what AdamW is made of."""
_SOUNDS, _SOUNDS_ALONE = 26.5, 21
"""Arrays of the whole sound that a block keeps: with an attention to the picture and without."""
_AT_WORK, _AT_WORK_AGAIN = 1.4, 2.2
"""Times what a block keeps: all that it makes at once on a CPU; and that it makes again on the way back, on a GPU too
(an H200 at 704x480x97, of 4 and of 8 blocks: 3.78 and 4.07 GB beyond the weights, counted 3.59 and 3.82)."""
_WATCHING = 0.85
"""Of what a forward of a clip holds, that of the base's blocks whose last streams nobody reads."""
_WHOLE = 55
"""Arrays of the whole video that two blocks hold which a GPU is handed whole, not part by part."""


@dataclass(frozen=True)
class TrainingStep:
    """What one forward of training goes over.

    Attributes:
        model: The base.
        config: The run's options, sizes included.
        audio_only: Whether the clips have no picture.
        machines: Over which a batch is spread.
        quantised: Whether to count as if the base's blocks had 4 bits.
        shared: Whether each machine holds some rows of the base's blocks, which all gather when they are needed.
    """

    model: ModelDir
    config: TrainConfig
    audio_only: bool
    machines: int = 1
    quantised: bool = False
    shared: bool = False

    @property
    def can_be_shared(self) -> bool:
        """Whether machines can share the base: what is kept for the way back, or compiled, holds whole blocks."""
        return not self.config.compile and (self.config.gradient_checkpointing or not self.config.coupled)

    @property
    def clips(self) -> int:
        """Of a forward, on the machine that has most."""
        return -(-self.config.batch_size // self.machines)

    @property
    def draws(self) -> int:
        """Rows of the adapted sound in a forward."""
        return self.clips * self.config.audio_draws


def trained_numbers(step: TrainingStep) -> int:
    """How many numbers a run trains."""
    skeleton = Transformer(step.model.network_config("transformer"), with_video=not step.audio_only)
    here = linears(skeleton)
    return sum(step.config.rank * sum(size_of(here[path])) for path in targets(skeleton, step.config))


def state_bytes(step: TrainingStep) -> int:
    """Bytes that a run holds between two steps beside the base."""
    return _STATE * _FLOAT32 * trained_numbers(step)


def step_bytes(step: TrainingStep, size: Geometry, machine: Machine) -> int:
    """Bytes beyond the base's weights that one optimizer step holds: the run's state, the clips, and the larger of what
    the ways there and back hold and of what the optimizer does."""
    vector = _FLOAT32 * trained_numbers(step)
    if step.config.coupled and not step.audio_only:
        return int((5.5 if machine.in_pieces else _STATE) * vector + _coupled(step, size, machine))
    kept, inputs = kept_of_block(step, size, machine)
    layers = step.model.network_config("transformer").layers
    again = step.config.gradient_checkpointing
    held = layers * (inputs if again else kept) + _data(step, size)
    most = max(held + _at_work(step, size, machine, kept), _OPTIMIZER * vector)
    return state_bytes(step) + most


def kept_of_block(step: TrainingStep, size: Geometry, machine: Machine) -> tuple[int, int]:
    """Bytes that a block of the adapted sound keeps for the way back; and those of its inputs, which are all that one
    keeps that is computed again.

    Args:
        step: What a forward goes over.
        size: Of a clip.
        machine: On a CPU heads and scores are fp32 whatever is differentiated.
    """
    config, transformer, rows = step.config, step.model.network_config("transformer"), step.draws
    width, heads = transformer.audio.dim, transformer.audio.heads
    own = 4 if config.activations == "float32" else 2
    mixed = own if machine.in_pieces else _FLOAT32
    sound, text, watched = size.audio_tokens * width, PROMPT * width, 0 if step.audio_only else size.video_tokens
    picture = step.clips * watched * transformer.video.dim * default_dtype().size
    inputs = rows * sound * own + picture
    texts = rows * text * 2 * (own + mixed)  # as modulated, keys before their norm; keys and values by heads
    read = step.clips * watched * width * own + rows * watched * width * 2 * mixed
    scores = rows * heads * size.audio_tokens * (size.audio_tokens + PROMPT + watched) * mixed
    narrow = config.rank * own * 2 * (rows * PROMPT + step.clips * watched)
    sounds = rows * sound * own * (_SOUNDS_ALONE if step.audio_only else _SOUNDS)
    return int(picture + texts + read + scores + narrow + sounds), inputs


def _data(step: TrainingStep, size: Geometry) -> int:
    """Bytes of a batch's clips, which are put together from the files' own, and of the adapted sound's text."""
    transformer = step.model.network_config("transformer")
    text = transformer.audio.context_dim + (0 if step.audio_only else transformer.video.context_dim)
    latents = size.audio_tokens * transformer.audio.in_channels
    latents += 0 if step.audio_only else size.video_tokens * transformer.video.in_channels
    return 2 * step.clips * (PROMPT * text * default_dtype().size + latents * _FLOAT32)


def _at_work(step: TrainingStep, size: Geometry, machine: Machine, kept: int) -> int:
    """Bytes of blocks at work: the base's on the way there, the adapted sound's both ways."""
    subject = Subject(step.model, default_dtype(), machine, step.audio_only, [""])
    watching = 0 if step.audio_only else walking(subject, size, rows=step.clips)
    again = step.config.gradient_checkpointing
    if not machine.in_pieces:
        watching = int(_WATCHING * watching)
        return max(watching + kept, int(_AT_WORK_AGAIN * kept)) if again else max(watching, int(_AT_WORK * kept))
    transformer = step.model.network_config("transformer")
    tokens = step.clips * (size.audio_tokens if step.audio_only else size.video_tokens)
    compiled = step.config.compile is None and not step.shared and tokens <= COMPILED_UP_TO.get(machine.backend, 0)
    if compiled and not step.audio_only:
        watching += _WHOLE * tokens * transformer.video.dim * default_dtype().size
    block = 2 * _cast(step) + int(_AT_WORK_AGAIN * kept) if again else _cast(step)  # there and back together
    blocks = AHEAD + 1 if compiled and not again else 2
    return blocks * block + max(watching, blocks * _turning_back(step, size))


def _cast(step: TrainingStep) -> int:
    """Bytes of a block's weights as the adapted sound multiplies with them, where they are stored narrower."""
    if step.config.activations != "float32" or default_dtype() == mx.float32:
        return 0
    blocks, _ = layer_bytes(step.model, "transformer", default_dtype(), step.audio_only, which=of_adapted_audio)
    return max(blocks) * _FLOAT32 // default_dtype().size


def _turning_back(step: TrainingStep, size: Geometry) -> int:
    """Bytes that a block makes on its way back on a GPU: cotangents of keys and values, of scores, and contexts as wide
    as they are multiplied with."""
    transformer, own = step.model.network_config("transformer"), 4 if step.config.activations == "float32" else 2
    watched = 0 if step.audio_only else size.video_tokens
    tokens = step.draws * PROMPT + step.clips * watched
    scores = transformer.audio.heads * size.audio_tokens * (size.audio_tokens + PROMPT + watched)
    wide = step.clips * watched * transformer.video.dim
    return own * (6 * tokens * transformer.audio.dim + 3 * step.draws * scores + wide)


def _coupled(step: TrainingStep, size: Geometry, machine: Machine) -> float:
    """Bytes of activations where both streams are trained through."""
    transformer = step.model.network_config("transformer")
    video = size.video_tokens * transformer.video.dim * _FLOAT32
    texts = PROMPT * (transformer.audio.dim + transformer.video.dim) * _FLOAT32
    subject = Subject(step.model, default_dtype(), machine, step.audio_only, [""])
    again, blocks = step.config.gradient_checkpointing, step.clips * transformer.layers
    if machine.in_pieces:
        return walking(subject, size) + 660 * video + blocks * (8.7 * video if again else 74 * video + 2.5 * texts)
    streams = video + size.audio_tokens * transformer.audio.dim * _FLOAT32
    tokens = size.video_tokens + size.audio_tokens
    scores = transformer.audio.heads * tokens * (tokens + PROMPT) * _FLOAT32
    kept = 20 * streams + 2.5 * texts + scores
    return walking(subject, size, rows=step.clips) + (blocks * streams + step.clips * kept if again else blocks * kept)
