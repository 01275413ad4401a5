"""`mlx_ltxw.train(...)`, a training run from Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import settle
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.train import loop
from mlx_ltxw.train.events import Finished, TrainingEvent
from mlx_ltxw.train.preview import Sample
from mlx_ltxw.train.record import RunArguments
from mlx_ltxw.train.start import begin, holding, job_of, keep_record, prepare_clips
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.world import World


class HasDirectory(Protocol):
    """A loaded model."""

    @property
    def directory(self) -> ModelDir: ...


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        adapter: Its file, in the official spelling.
        delta_rms: Root mean square of the change it makes to the weights.
        samples: Listening samples without it (step 0) and with it.
        run: Its folder, with the card and `index.html`.
    """

    adapter: Path
    delta_rms: float
    samples: tuple[Sample, ...]
    run: Path


def train(
    data: str | Path,
    out: str | Path,
    model: str | Path | ModelDir | HasDirectory | None = None,
    *,
    resume: bool = False,
    speaker: str | None = None,
    manner: str | None = None,
    scene: str | None = None,
    audio_only: bool = False,
    transcribe: bool = False,
    cache: str | Path | None = None,
    force: bool = False,
    follow: Callable[[TrainingEvent], object] = lambda _: None,
    **options: Any,
) -> Trained:
    """Trains an adapter on clips, to the end.

    Args:
        data: A folder of clips with .txt captions beside them, or a JSONL.
        out: Folder of the run.
        model: The base: a model directory, a Hub repository, a loaded model, or None for the built-in one.
        resume: Goes on from the newest checkpoint, with what the run was told where nothing else is said.
        speaker, manner, scene: Taken for clips whose caption does not tell.
        audio_only: Leaves pictures out.
        transcribe: Lets Whisper fill in what is said (extra `asr`).
        cache: Where encoded clips are kept; in the run by default.
        force: Trains on a distilled model all the same.
        follow: Gets each event: Started, Progress, Saved, Sampling, SuspectSample, Sampled, Finished. An exception of
            its own ends the run, and `resume=True` goes on from the last checkpoint.
        **options: Of the training, as `mlx-ltxw train --set` knows them: `steps=500`, `rank=16`, ...

    Raises:
        UserError: the options, the data or the folder will not do.
    """
    settle()  # before clips are encoded
    run, base = Path(out), None if model is None or isinstance(model, str) else _directory(model)
    name = str(base.path) if base else model if isinstance(model, str) else None
    given = RunArguments(
        str(data), name, None if cache is None else str(cache), speaker, manner, scene, transcribe, audio_only, force
    )
    settings = [f"{name}={json.dumps(value)}" for name, value in options.items()]
    begun = begin(run, given, World.join(), settings=settings, resume=resume, model=base)
    with holding(begun):
        keep_record(begun)
        for event in loop.train(job_of(begun, prepare_clips(begun))):
            follow(event)
            if isinstance(event, Finished):
                finished = Trained(event.adapter, event.delta_rms, event.samples, run)
    return finished


def _directory(model: str | Path | ModelDir | HasDirectory | None) -> ModelDir:
    if isinstance(model, ModelDir):
        return model
    if model is None or isinstance(model, str | Path):
        return open_model(model)
    try:
        return model.directory
    except AttributeError as error:
        raise UserError(f"{model!r} is no model.", "Give a model directory, or what `load` returns.") from error
