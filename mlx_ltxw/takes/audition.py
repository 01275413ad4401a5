"""The takes of each clip to files: the picture is encoded once, and copied packet by packet into each."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from mlx_ltxw.machine import peak_memory
from mlx_ltxw.media.measure import Measurement
from mlx_ltxw.media.mp4 import open_mp4
from mlx_ltxw.media.remux import remux
from mlx_ltxw.pipeline.events import Decoded, Event
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.takes.compose import finished, measured, new_sound
from mlx_ltxw.takes.events import Decoding, Ranked, TakeEvent, Written
from mlx_ltxw.takes.output import Output
from mlx_ltxw.takes.ranking import RankedTake, ranked
from mlx_ltxw.takes.record import clip_record, take_record
from mlx_ltxw.takes.write import write_beside, write_files


def write_takes(job: Plan, output: Output, events: Generator[Event, None, None]) -> Generator[TakeEvent, None, None]:
    """The events of a run of takes, each clip's `Decoded`s replaced by `Written`s and the takes' ranking.

    Args:
        job: From `fit`.
        output: Where the files go.
        events: Of the run.
    """
    with closing(events):
        made: list[Decoded] = []
        for event in events:
            if not isinstance(event, Decoded):
                yield event
                continue
            # One of them has the frames: what the others wait for would be kept in memory for them.
            made.append(finished(dataclasses.replace(event, video=None) if made else event, job))
            if len(made) == len(job.takes):
                yield from _written(job, output, made)
                made = []


def _written(job: Plan, output: Output, made: Sequence[Decoded]) -> Iterator[TakeEvent]:
    found = [measured(take, job) for take in made]
    order = ranked(job.takes, found)
    yield from (_write_tracks if output.tracks else _write_each)(job, output, made, found, order)
    yield Ranked(made[0].seed, tuple(order))


def _write_each(
    job: Plan, output: Output, made: Sequence[Decoded], found: Sequence[Measurement], _: Sequence[RankedTake]
) -> Iterator[TakeEvent]:
    """Files of its own for each take."""
    first: Path | None = None
    for number, (take, measurement) in enumerate(zip(made, found, strict=True), 1):
        names = output.names(job.settings, take.seed, number)
        yield from write_files(names, take, job.settings, take_record(job, take.seed, number), first)
        first = first or names[0]
        yield Written(take.seed, tuple(names), measurement, peak_memory(), number, new_sound(job))


def _write_tracks(
    job: Plan, output: Output, made: Sequence[Decoded], found: Sequence[Measurement], order: Sequence[RankedTake]
) -> Iterator[TakeEvent]:
    """One mp4 with a sound track for each take, of which a player takes the best."""
    settings, seed, path = job.settings, made[0].seed, output.main(job.settings, made[0].seed)
    titles = [f"take {number}: {take.spec}" for number, take in enumerate(job.takes, 1)]
    default, metadata = order[0].number - 1, clip_record(job, seed)
    if settings.video is not None and made[0].video is None:
        sounds = [take.waveform for take in made]
        remux(settings.video, sounds, path, tracks=titles, default=default, metadata=metadata)
    else:
        yield from _encode(path, job, made, titles, default)
    for number, (take, measurement) in enumerate(zip(made, found, strict=True), 1):
        names = output.names(settings, seed, number)
        write_beside(names, take, take_record(job, seed, number))
        yield Written(seed, tuple(names), measurement, peak_memory(), number, new_sound(job))
    yield Written(seed, (path,), None, peak_memory())


def _encode(path: Path, job: Plan, made: Sequence[Decoded], titles: Sequence[str], default: int) -> Iterator[Decoding]:
    settings, metadata = job.settings, clip_record(job, made[0].seed)
    assert made[0].video is not None
    size = settings.width, settings.height, settings.frame_rate
    with open_mp4(path, *size, tracks=titles, default=default, metadata=metadata) as file:
        for frames in made[0].video:
            file.frames(frames)
            yield Decoding(made[0].seed, file.count, settings.frames)
        for number, take in enumerate(made):
            file.audio(take.waveform, number)
