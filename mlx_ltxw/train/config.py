"""What a training run is told: `--config FILE` (YAML), then `--set key=value`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_ltxw.adapter.names import ATTENTIONS, PROJECTIONS, WHISPER_MODULES
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text
from mlx_ltxw.parsing import build, parse_yaml

DEFAULT_SIZE = {"width": 192, "height": 192, "frames": 97, "frame_rate": 24.0}
"""Of the public whisper adapter's clips; a model that names its own sizes is trained at those."""

_WORDS = tuple[str, ...]
_AS_YAML = "Write values as in `steps: 500` or `modules: [audio_attn1]`."

FREE_TO_CHANGE = ("checkpoint_every", "keep_checkpoints", "preview_every", "preview_prompts", "preview_steps",
                  "preview_seed", "log_every", "trackio")  # fmt: skip
"""Options that leave the adapter's numbers alone; all others are fixed when a run is resumed."""


@dataclass(frozen=True)
class TrainConfig:
    """All options of a run. Sizes left at None are the model's own.

    Attributes:
        steps: Optimizer steps.
        rank, alpha: Of the adapter; its change is alpha / rank times B A.
        modules: Attentions that are adapted.
        projections: Linears of each; gates never are.
        learning_rate: At the first step.
        final_learning_rate: What share of it is left after the last step; falls linearly (`LinearLR`).
        warmup: Steps over which it rises from zero.
        weight_decay: AdamW's, decoupled.
        max_grad_norm: Longer gradients are shortened to it; 0 for no limit.
        batch_size: Clips a forward, over all machines together.
        accumulation: Forwards an optimizer step.
        audio_draws: Noise draws of the adapted audio for one pass of the video.
        coupled: Train through the video too, as the official trainer does, instead of under the exact video lock.
        video_loss: Weight of the video's loss beside the audio's, when coupled.
        sigma: Noise levels of video and audio drawn independently, or shared.
        activations: Dtype of what is differentiated. Under the lock the video runs forward only, in the dtype that
            pictures are generated in.
        gradient_checkpointing: Compute each block again in the backward pass instead of keeping its activations.
        compile: Make the step one compiled function; None: on a Mac's GPU.
        seed: Drives the fresh adapter, the data's order, the noise and its levels.
        checkpoint_every: Steps between checkpoints; the last step makes one in any case.
        keep_checkpoints: How many are kept.
        preview_every: Steps between listening samples; 0 for those at the end alone.
        preview_prompts: Of the samples; empty for one caption a speaker and manner of the data.
        preview_steps: Denoising steps of a sample; None for the model's own.
        preview_seed: Of the samples' noise.
        log_every: Steps between lines of progress with the delta's RMS.
        trackio: Log to trackio too.
        width, height: Pixels of the clips.
        frames, frame_rate: Their length.
    """

    steps: int = 2000
    rank: int = 32
    alpha: float = 32.0
    modules: tuple[str, ...] = WHISPER_MODULES
    projections: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    learning_rate: float = 2e-4
    final_learning_rate: float = 0.1
    warmup: int = 0
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    batch_size: int = 2
    accumulation: int = 1
    audio_draws: int = 1
    coupled: bool = False
    video_loss: float = 0.0
    sigma: Literal["independent", "shared"] = "independent"
    activations: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    compile: bool | None = None
    seed: int = 42
    checkpoint_every: int = 250
    keep_checkpoints: int = 2
    preview_every: int = 500
    preview_prompts: tuple[str, ...] = ()
    preview_steps: int | None = None
    preview_seed: int = 10
    log_every: int = 10
    trackio: bool = False
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    frame_rate: float | None = None

    @property
    def scale(self) -> float:
        """What multiplies B A."""
        return self.alpha / self.rank

    @property
    def clips_per_step(self) -> int:
        """Clips one optimizer step sees, over all machines together."""
        return self.batch_size * self.accumulation

    @property
    def sizes(self) -> tuple[int, int, int, float]:
        """Width, height, frames and frame rate, once they are set."""
        width, height, frames, rate = self.width, self.height, self.frames, self.frame_rate
        if width is None or height is None or frames is None or rate is None:
            raise ValueError("the sizes are not set; see with_sizes")
        return width, height, frames, rate

    def with_sizes(self, generation: Mapping[str, Any]) -> TrainConfig:
        """Sets the sizes left open: the model's own (`ModelDir.generation`), or those of the public adapter."""
        sizes = {name: generation.get(name, value) for name, value in DEFAULT_SIZE.items()}
        return dataclasses.replace(
            self, **{name: value for name, value in sizes.items() if getattr(self, name) is None}
        )

    def to_dict(self) -> dict[str, Any]:
        """As YAML and JSON take it."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


def read_config(
    file: Path | None = None, settings: Sequence[str] = (), base: Mapping[str, Any] | None = None
) -> TrainConfig:
    """Reads the options of a run.

    Args:
        file: YAML, one option a line.
        settings: `key=value` texts, which go over the file; the value is read as YAML.
        base: What both go over: the options of the run that is resumed.

    Raises:
        UserError: an unknown option, a value of another kind, an impossible value, or one that has no effect.
    """
    values = dict(base or {})
    values.update(_file_values(file) if file else {})
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"'{text}' has no value.", "Write it as key=value, such as {field:steps=500}.")
        values[name.strip()] = parse_yaml(value, f"'{name}'", _AS_YAML)
    config = _build(values)
    _check_ranges(config)
    _check_use(config)
    return config


def changed(config: TrainConfig, other: TrainConfig) -> list[str]:
    """Options in which two runs differ, but for those that are free to change."""
    ours, theirs = config.to_dict(), other.to_dict()
    return [name for name in ours if name not in FREE_TO_CHANGE and ours[name] != theirs[name]]


def _file_values(file: Path) -> dict[str, Any]:
    values = parse_yaml(read_text(file), str(file), _AS_YAML)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no options.", "Write one option a line, such as `steps: 500`.")
    return {str(name): value for name, value in values.items()}


def _build(values: Mapping[str, Any]) -> TrainConfig:
    hints = typing.get_type_hints(TrainConfig)
    if unknown := sorted(set(values) - set(hints)):
        raise UserError(f"There is no training option {_listed(unknown)}.", f"There are: {', '.join(hints)}.")
    whole = {name: [v] if isinstance(v, str) and hints[name] == _WORDS else v for name, v in values.items()}
    return build(TrainConfig, whole, "The training options", _AS_YAML)


def _check_ranges(config: TrainConfig) -> None:
    least = {
        "steps": 1, "rank": 1, "batch_size": 1, "accumulation": 1, "audio_draws": 1, "checkpoint_every": 1,
        "keep_checkpoints": 1, "log_every": 1, "preview_every": 0, "preview_steps": 1, "warmup": 0, "video_loss": 0,
        "max_grad_norm": 0, "weight_decay": 0, "final_learning_rate": 0, "seed": 0, "preview_seed": 0,
        "width": 1, "height": 1, "frames": 1,
    }  # fmt: skip
    for name, limit in least.items():
        value = getattr(config, name)
        if value is not None and not value >= limit:
            raise _bad(name, value, f"at least {limit}")
    for name in ("alpha", "learning_rate", "frame_rate"):
        value = getattr(config, name)
        if value is not None and not 0 < value < float("inf"):
            raise _bad(name, value, "above 0")
    known = {"modules": ATTENTIONS, "projections": [name for name in PROJECTIONS if name != "to_gate_logits"]}
    for name, names in known.items():
        chosen = getattr(config, name)
        if not chosen or len(set(chosen)) != len(chosen) or set(chosen) - set(names):
            raise _bad(name, list(chosen), f"some of {', '.join(names)}")


def _check_use(config: TrainConfig) -> None:
    """Refuses options that the others leave without effect."""
    outside = [name for name in config.modules if name not in WHISPER_MODULES]
    faults = [
        (config.video_loss and not config.coupled, "video_loss acts only when coupled; the lock keeps the video",
         "Add coupled=true, or leave video_loss out."),
        (config.audio_draws > 1 and config.coupled, "audio_draws acts only under the video lock",
         "Leave coupled or audio_draws out."),
        (outside and not config.coupled, f"{_listed(outside)} acts only when coupled; the lock keeps the video",
         "Add coupled=true, or leave the module out."),
        (config.warmup >= config.steps, f"a warm-up of {config.warmup} steps leaves none to train",
         "Give fewer steps of warm-up."),
    ]  # fmt: skip
    for wrong, message, hint in faults:
        if wrong:
            raise UserError(f"Option without use: {message}.", hint)


def _bad(name: str, value: Any, wanted: str) -> UserError:
    return UserError(f"The training option {name} is {value!r}.", f"Give {wanted}.")


def _listed(names: Iterable[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)
