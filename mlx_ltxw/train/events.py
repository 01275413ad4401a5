"""What a training run tells its caller."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.printing import counted, readable
from mlx_ltxw.train.finish import Data, register_text
from mlx_ltxw.train.preview import Sample, Sampling, SuspectSample


@dataclass(frozen=True)
class Started:
    """The models are in memory.

    Attributes:
        step, total: Steps done before, and in all.
        linears: Trained.
        parameters: Numbers trained.
        data: How many clips there are, and their seconds.
        machines: How many.
        notes: What is to be known before it starts.
    """

    step: int
    total: int
    linears: int
    parameters: int
    data: Data
    machines: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        begin = f", from step {self.step}" if self.step else ""
        machines = f" on {self.machines} machines" if self.machines > 1 else ""
        held_out = f"; {self.data.held_out} more kept back" if self.data.held_out else ""
        return (
            f"training {self.parameters:,} numbers in {self.linears} linears on {counted(self.data.clips, 'clip')} "
            f"({self.data.seconds:.0f} s){held_out}, {counted(self.total, 'step')}{begin}{machines}"
        )


@dataclass(frozen=True)
class Progress:
    """One optimizer step is done.

    Attributes:
        step, total: From 1.
        audio_loss: Mean over the clips of the step.
        video_loss: The same, unweighted; None where the video is not trained on.
        learning_rate: After warm-up and decay, at this step.
        gradient_norm: Before it was shortened.
        delta_rms: Of the adapter's change after the step; None on steps that measure none.
        seconds: It took.
        remaining: Seconds to the last step.
        peak_memory: Bytes.
        held_out_loss: Mean audio loss of the clips that are kept back; None on steps that do not measure it.
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
    held_out_loss: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """A line of `metrics.jsonl`; what was not measured is left out."""
        hidden = ("total", "remaining")
        return {name: value for name, value in asdict(self).items() if value is not None and name not in hidden}

    def __str__(self) -> str:
        video = "" if self.video_loss is None else f", video {self.video_loss:.4f}"
        delta = "" if self.delta_rms is None else f" · delta rms {self.delta_rms:.2e}"
        held_out = "" if self.held_out_loss is None else f", kept back {self.held_out_loss:.4f}"
        return (
            f"step {self.step}/{self.total} · loss audio {self.audio_loss:.4f}{video}{held_out}{delta} · "
            f"{self.seconds:.2f} s/step · {in_words(self.remaining)} left · {readable(self.peak_memory)}"
        )


@dataclass(frozen=True)
class Saved:
    """A checkpoint is written."""

    step: int
    folder: Path

    def __str__(self) -> str:
        return f"saved {self.folder}"


@dataclass(frozen=True)
class Sampled:
    """Listening samples are made, and the page shows them."""

    step: int
    samples: tuple[Sample, ...]
    page: Path

    def __str__(self) -> str:
        return "\n".join(
            [f"samples of step {self.step}: {self.page}", *(f"  {register_text(s)}" for s in self.samples)]
        )


@dataclass(frozen=True)
class Stopped:
    """The run was asked to end; the step is saved."""

    step: int

    def __str__(self) -> str:
        return f"Stopped after step {self.step}, which is saved; go on with {{field:resume=True}}."


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

    def __str__(self) -> str:
        lines = [f"  step {sample.step}: {register_text(sample)}: {sample.prompt}" for sample in self.samples]
        return "\n".join([f"{self.adapter}: delta rms {self.delta_rms:.3e}", *lines])


def in_words(seconds: float) -> str:
    """A stretch of time as people say it: `about 2 hours 5 minutes`, two units at most."""
    minutes = round(seconds / 60)
    if seconds < 45:
        return "less than a minute" if seconds > 0 else "nothing"
    if minutes > 2880:
        parts = [(minutes // 1440, "day"), (minutes % 1440 // 60, "hour")]
    else:
        parts = [(minutes // 60, "hour"), (minutes % 60, "minute")]
    return "about " + " ".join(f"{count} {unit}{'s' if count > 1 else ''}" for count, unit in parts if count)


TrainingEvent = Started | Progress | Saved | Sampling | SuspectSample | Sampled | Stopped | Finished
