"""What a training run tells its caller."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.printing import readable
from mlx_ltxw.train.finish import Data
from mlx_ltxw.train.preview import Sample


@dataclass(frozen=True)
class Started:
    """The models are in memory.

    Attributes:
        step, total: Steps done before, and in all.
        linears: Trained.
        parameters: Numbers trained.
        data: Of the clips.
        machines: How many.
    """

    step: int
    total: int
    linears: int
    parameters: int
    data: Data
    machines: int


@dataclass(frozen=True)
class Progress:
    """One optimizer step is done.

    Attributes:
        step, total: From 1.
        audio_loss: Mean over the clips of the step.
        video_loss: The same, unweighted; None where the video is not trained on.
        learning_rate: Of this step.
        gradient_norm: Before it was shortened.
        delta_rms: Of the adapter's change after the step; None on steps that measure none.
        seconds: It took.
        remaining: Seconds to the last step.
        peak_memory: Bytes.
    """

    step: int
    total: int
    audio_loss: float
    video_loss: float | None
    learning_rate: float
    gradient_norm: float
    delta_rms: float | None
    seconds: float
    remaining: float
    peak_memory: int

    def to_dict(self) -> dict[str, Any]:
        """A line of `metrics.jsonl`; what was not measured is left out."""
        hidden = ("total", "remaining")
        return {name: value for name, value in asdict(self).items() if value is not None and name not in hidden}

    def __str__(self) -> str:
        video = "" if self.video_loss is None else f", video {self.video_loss:.4f}"
        delta = "" if self.delta_rms is None else f" · delta rms {self.delta_rms:.2e}"
        minutes, seconds = divmod(round(self.remaining), 60)
        return (
            f"step {self.step}/{self.total} · loss audio {self.audio_loss:.4f}{video}{delta} · "
            f"{self.seconds:.2f} s/step · {minutes}:{seconds:02d} left · {readable(self.peak_memory)}"
        )


@dataclass(frozen=True)
class Saved:
    """A checkpoint is written."""

    step: int
    folder: Path


@dataclass(frozen=True)
class Sampled:
    """Listening samples are made, and the page shows them."""

    step: int
    samples: tuple[Sample, ...]
    page: Path


@dataclass(frozen=True)
class Stopped:
    """The run was asked to end; the step is saved."""

    step: int


@dataclass(frozen=True)
class Finished:
    """The adapter is written.

    Attributes:
        adapter: Its file.
        delta_rms: Root mean square of its change.
        samples: Of the base model and of the adapter.
    """

    adapter: Path
    delta_rms: float
    samples: tuple[Sample, ...]


Event = Started | Progress | Saved | Sampled | Stopped | Finished
