"""Training runs in the worker: the same as `mlx-ltxw train`, told to the page, stopped after a step that is saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any

from mlx_ltxw.studio.place import Place, TellServer
from mlx_ltxw.studio.runs import TrainAsked, asked_of, run_folder
from mlx_ltxw.studio.work_clip import let_go
from mlx_ltxw.train import loop
from mlx_ltxw.train.data.findings import Finding
from mlx_ltxw.train.events import (
    Finished,
    Progress,
    Sampled,
    Sampling,
    Saved,
    Started,
    Stopped,
    SuspectSample,
    TrainingEvent,
)
from mlx_ltxw.train.record import NAME, RunArguments
from mlx_ltxw.train.start import begin, holding, job_of, keep_record, prepare_clips
from mlx_ltxw.world import World


def work(asked: dict[str, Any], place: Place, tell: TellServer, cancelled: Callable[[], bool]) -> None:
    """Begins a run, or goes on with it, to its end or until it is cancelled; every step done then is saved.

    Raises:
        UserError: the options, the data or the folder will not do.
    """
    wanted = asked_of(asked)
    run = run_folder(place.folder, wanted.run)
    let_go()
    tell("progress", stage="opening")
    begun = begin(run, _given(wanted), World(), settings=wanted.settings, resume=(run / NAME).exists())

    def progress(stage: str, done: int, total: int) -> None:
        tell("progress", stage=stage, done=done, total=total)
        if cancelled():
            raise _Cancelled

    def found(findings: Sequence[Finding]) -> None:
        tell("train", run=wanted.run, what="data", findings=[dataclasses.asdict(one) for one in findings])

    with holding(begun):
        keep_record(begun)
        try:
            clips = prepare_clips(begun, progress=progress, tell=found)
        except _Cancelled:  # what was encoded is kept
            return
        events = loop.train(job_of(begun, clips), cancelled)
        _follow(events, wanted.run, tell, cancelled)


def _given(asked: TrainAsked) -> RunArguments:
    labels = asked.speaker or None, asked.manner or None, asked.scene or None
    return RunArguments(asked.data, asked.model, None, *labels, audio_only=asked.audio_only)


class _Cancelled(Exception):
    """The job is wanted no more."""


def _follow(
    events: Generator[TrainingEvent, None, None], run: str, tell: TellServer, cancelled: Callable[[], bool]
) -> None:
    """Tells a run to its end; while samples are made all is saved, and it may end at once."""
    with closing(events):
        for event in events:
            _tell(event, run, tell)
            if isinstance(event, Sampling) and cancelled():
                return


def _tell(event: TrainingEvent, run: str, tell: TellServer) -> None:
    if isinstance(event, Progress):
        tell("progress", stage="training", done=event.step, total=event.total, seconds_left=event.remaining)
        tell("train", run=run, what="step", step=event.step, loss=event.audio_loss, held_out=event.held_out_loss)
    elif isinstance(event, Sampling):
        done = (event.number - 1) * event.total + event.done
        tell("progress", stage="sampling", done=done, total=event.samples * event.total)
    elif isinstance(event, SuspectSample):
        tell("note", text=str(event))
    elif isinstance(event, Started):
        for note in event.notes:
            tell("note", text=note)
        tell("train", run=run, what="started", step=event.step)
    elif isinstance(event, Saved | Sampled | Stopped):
        tell("train", run=run, what=type(event).__name__.lower(), step=event.step)
    elif isinstance(event, Finished):
        tell("train", run=run, what="finished")
