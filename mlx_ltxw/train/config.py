"""What a training run is told: `--config FILE` (YAML), then `--set key=value`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from mlx_ltxw.adapter.names import ATTENTIONS, PROJECTIONS, WHISPER_MODULES
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text
from mlx_ltxw.parsing import build, parse_yaml

DEFAULT_SIZE = {"width": 192, "height": 192, "frames": 97, "frame_rate": 24.0}
"""Of the public whisper adapter's clips; a model that names its own sizes is trained at those."""

_WORDS = tuple[str, ...]
_AS_YAML = "Write values as in `steps: 500` or `modules: [audio_attn1]`."

FREE_TO_CHANGE = ("steps", "checkpoint_every", "keep_checkpoints", "preview_every", "preview_prompts", "preview_steps",
                  "preview_seed", "log_every", "held_out_every", "trackio", "share_base")  # fmt: skip
"""Options that a resumed run may be given anew; all others decide what its adapter's numbers mean."""

GROUPS = ("length", "adapter", "optimizer", "batch", "method", "held out", "checkpoints and samples", "size")


def _option(default: Any, group: str, text: str) -> Any:
    """A field with its group and its line in `train -h` and in config files."""
    return dataclasses.field(default=default, metadata={"group": group, "help": text})


@dataclass(frozen=True)
class TrainConfig:
    """All options of a run, each with its line of help. Sizes left at None are the model's own."""

    steps: int = _option(2000, "length", "Optimizer steps; a finished run goes on when resumed with more.")
    warmup: int = _option(0, "length", "Steps over which the learning rate rises from zero.")
    rank: int = _option(32, "adapter", "Of the low-rank factors.")
    alpha: float = _option(32.0, "adapter", "The change is alpha / rank times B A.")
    modules: tuple[str, ...] = _option(WHISPER_MODULES, "adapter", "Attentions that are adapted.")
    projections: tuple[str, ...] = _option(
        ("to_q", "to_k", "to_v", "to_out.0"), "adapter", "Linears of each attention; gates never are."
    )
    init_adapter: str | None = _option(None, "adapter", "A LoRA to start from: a name, file or repository.")
    learning_rate: float = _option(2e-4, "optimizer", "At the first step.")
    final_learning_rate: float = _option(
        0.1, "optimizer", "Share of it that is left after the last step; falls in a straight line."
    )
    weight_decay: float = _option(0.01, "optimizer", "AdamW's, decoupled.")
    max_grad_norm: float = _option(1.0, "optimizer", "Longer gradients are shortened to it; 0 for no limit.")
    batch_size: int = _option(2, "batch", "Clips a forward, over all machines together.")
    accumulation: int = _option(1, "batch", "Forwards an optimizer step.")
    audio_draws: int = _option(1, "batch", "Noise draws of the adapted audio for one pass of the video.")
    seed: int = _option(42, "batch", "Drives the fresh adapter, the order of the data, the noise and its levels.")
    coupled: bool = _option(
        False, "method", "Train through the video too, as the official trainer does, not under the exact video lock."
    )
    video_loss: float = _option(0.0, "method", "Weight of the video's loss beside the audio's, when coupled.")
    sigma: Literal["independent", "shared"] = _option(
        "independent", "method", "Noise levels of video and audio: drawn apart (independent), or shared."
    )
    activations: Literal["float32", "bfloat16"] = _option(
        "float32", "method", "Dtype of what is differentiated: float32 or bfloat16."
    )
    gradient_checkpointing: bool = _option(
        False, "method", "Compute each block again in the backward pass: less memory, more time."
    )
    compile: bool | None = _option(
        None, "method", "Make the step one compiled function; null: on a Mac's GPU, and on CUDA single blocks of small "
        "clips; false: nothing.",
    )  # fmt: skip
    share_base: bool | None = _option(
        None, "method", "On several machines: each holds a part of the base's blocks, gathered as they are needed; "
        "null: where the base does not fit into one of them.",
    )  # fmt: skip
    held_out: float = _option(
        0.0, "held out", "Share of the clips that is not trained on but measured, whole voices where there are several."
    )
    held_out_every: int = _option(100, "held out", "Steps between two measurements of their loss.")
    checkpoint_every: int = _option(
        250, "checkpoints and samples", "Steps between checkpoints; the last step makes one in any case."
    )
    keep_checkpoints: int = _option(2, "checkpoints and samples", "How many are kept.")
    preview_every: int = _option(
        500, "checkpoints and samples", "Steps between listening samples; 0 for those at the end alone."
    )
    preview_prompts: tuple[str, ...] = _option(
        (), "checkpoints and samples", "Of the samples; empty: a caption of each speaker and manner."
    )
    preview_steps: int | None = _option(
        None, "checkpoints and samples", "Denoising steps of a sample; null: the model's own."
    )
    preview_seed: int = _option(10, "checkpoints and samples", "Of the samples' noise.")
    log_every: int = _option(10, "checkpoints and samples", "Steps between lines with the RMS of the change.")
    trackio: bool = _option(False, "checkpoints and samples", "Log to trackio too.")
    width: int | None = _option(None, "size", "Pixels of the clips; null: the model's own, or 192.")
    height: int | None = _option(None, "size", "Pixels of the clips; null: the model's own, or 192.")
    frames: int | None = _option(None, "size", "Their length; null: the model's own, or 97.")
    frame_rate: float | None = _option(None, "size", "Frames a second; null: the model's own, or 24.")

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

    @classmethod
    def by_group(cls) -> dict[str, list[dataclasses.Field[Any]]]:
        """The options in the order of `GROUPS`; each field's `metadata["help"]` is its line."""
        return {group: [f for f in dataclasses.fields(cls) if f.metadata["group"] == group] for group in GROUPS}

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


def as_yaml(value: Any) -> str:
    """A value as it stands in a config file and in help."""
    plain = list(value) if isinstance(value, tuple) else value
    return (
        str(yaml.safe_dump(plain, default_flow_style=True, width=1 << 16, allow_unicode=True))
        .removesuffix("\n...\n")
        .strip()
    )


def commented(config: TrainConfig, heading: Sequence[str] = ()) -> str:
    """All options as a config file, each with its line of help behind it."""
    lines = [f"# {line}" for line in heading]
    for group, options in TrainConfig.by_group().items():
        texts = [f"{option.name}: {as_yaml(getattr(config, option.name))}" for option in options]
        lines += ["", f"# {group}"]
        lines += [f"{text:<40}  # {option.metadata['help']}" for text, option in zip(texts, options, strict=True)]
    return "\n".join(lines).lstrip("\n") + "\n"


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
        "held_out": 0, "held_out_every": 1,
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
    if config.held_out > 0.5:
        raise _bad("held_out", config.held_out, "a share of at most 0.5")
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
