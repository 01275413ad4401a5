"""What is kept of a run while it is made, beside its output: after a cut the same request goes on from the last step.

`OUT.mp4.unfinished` holds the state after the last step of the clip at work (`pipeline/point.py`), and the seeds of the
clips that are written. It belongs to one request, model, version and device, and to nothing else. When the run's files
are all there, it is removed.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import platform
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_ltxw import blas
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import LOCK, replacing, write_errors
from mlx_ltxw.gpu_errors import gpu_errors
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.parsing import build, parse_json
from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.latents import Latents
from mlx_ltxw.pipeline.numbers import LostNumbers
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.pipeline.point import DoneBefore, ResumePoint
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.resolve import drawn_before
from mlx_ltxw.takes.events import Note, Ranked, TakeEvent, Written
from mlx_ltxw.takes.output import Output, previews_of
from mlx_ltxw.takes.record import clip_record, given_hashes, take_record
from mlx_ltxw.weights.header import read_header

FORMAT = 1
ENDING = ".unfinished"
_NAMED = 200
"""Bytes of an output's name that its lock's may have in it; no system's names are longer than 255."""
_KEY = "mlx_ltxw_unfinished"
_NAMES = ("video", "audio", "adapted", "sounds.audio", "sounds.adapted")
"""Tensors: a point's latents, and its sounds."""


@dataclass(frozen=True)
class _Kept:
    """The record in the file.

    Attributes:
        format: Of the file.
        run: What it belongs to (`run_digest`).
        seeds: Of the run.
        done: Seeds whose files are written.
        seed: Of the clip at work; None between two.
        index, total: Its steps that are done, of so many.
        content: sha256 of the tensors.
        previews: Whether the run writes previews, or one before it did, which are removed with this file.
        takes: Of the run.
    """

    format: int
    run: str
    seeds: tuple[int, ...]
    done: tuple[int, ...]
    seed: int | None
    index: int
    total: int
    content: str
    previews: bool = False
    takes: tuple[str, ...] = ()


def file_beside(output: Path) -> Path:
    """Where a run's progress is kept.

    Raises:
        UserError: the output is a folder's name, or none.
    """
    if not output.name:  # as of "", "." and "/"
        raise UserError(f"'{output}' is a folder, and a clip is a file.", "Give a name that ends in .mp4 or .wav.")
    return output.with_name(output.name + ENDING)


def lock_beside(output: Path) -> Path:
    """The file that carries a run's lock while it is made; gone with the run, or with the next one in its folder."""
    name = os.fsencode(output.name)
    return output.with_name(f".{output.name if len(name) <= _NAMED else hashlib.sha256(name).hexdigest()}{LOCK}")


class Unfinished:
    """How far a run is, on disk.

    Args:
        output: The run's output; the file lies beside it.
        job: The run.
        resume: Whether to go on where an earlier one was cut; otherwise its state is replaced by this run's.
        previews: Whether the run writes previews beside.

    Attributes:
        own: Files of previews that a run before this one wrote, which this one may replace, and removes.
    """

    def __init__(self, output: Path, job: Plan, resume: bool = True, previews: bool = False) -> None:
        self.path = file_beside(output)
        self.own = previews_left(output)
        self.progress = DoneBefore()
        self.notes: list[str] = []
        self._job = job
        self._previews = previews_of(output) if previews else self.own
        self._index = 0
        self._told = False
        if resume and self.path.is_file():
            try:
                self._read()
            except (UserError, OSError, RuntimeError, ValueError) as error:
                why = error.message if isinstance(error, UserError) else str(error)
                self.notes.append(f"{self.path} cannot be used, and the clip is begun anew: {why}")

    def without(self, seed: int) -> None:
        """Forgets that a seed is written."""
        self.progress = DoneBefore(self.progress.points, self.progress.done - {seed})

    def following(self, events: Generator[TakeEvent, None, None]) -> Generator[TakeEvent, None, None]:
        """The events of the run, whose steps are kept before they are told.

        Raises:
            UserError: as the run, and how far its clip is kept.
        """
        last = Ranked if self._job.settings.takes else Written
        yield from map(Note, self.notes)
        try:
            with closing(events), gpu_errors():
                for event in events:
                    if isinstance(event, Step):
                        yield from self._keep(event)
                    elif isinstance(event, last):
                        yield from self._finish(event.seed)
                    yield event
        except LostNumbers:  # the same request would lose them again
            self._remove()
            raise
        except UserError as error:
            raise (error.followed_by(self._kept()) if self._index and self.path.is_file() else error) from error
        self._remove()

    def _kept(self) -> str:
        steps = f"Step {self._index} of {self._job.steps} is"
        if self._index == self._job.steps:
            steps = f"All {self._index} steps are" if self._index > 1 else "Its one step is"
        return f"{steps} kept in {self.path.name}, and the same request goes on from there."

    def _keep(self, step: Step) -> Iterator[Note]:
        """Writes a step; a disk that takes nothing ends no run."""
        point = step.point
        sounds = point.sounds or (None, None, None)
        named = zip(_NAMES, (*point.latents, *sounds[1:]), strict=True)
        arrays = {name: array for name, array in named if array is not None}
        yield from self._write(step.seed, step.index, arrays)

    def _finish(self, seed: int) -> Iterator[Note]:
        if seed in self.progress.done:
            return
        done = self.progress.done | {seed}
        self.progress = DoneBefore(done=done)
        if done >= {*self._job.settings.seeds}:
            self._remove()
        else:
            yield from self._write(None, 0, {})

    def _write(self, seed: int | None, index: int, arrays: Mapping[str, mx.array]) -> Iterator[Note]:
        settings, done = self._job.settings, tuple(sorted(self.progress.done))
        kept = _Kept(
            FORMAT, self._run, settings.seeds, done, seed, index, self._job.steps, _content(arrays),
            bool(self._previews), settings.takes,
        )  # fmt: skip
        try:
            with replacing(self.path) as partial, write_errors(self.path), partial.open("wb") as file:
                mx.save_safetensors(file, dict(arrays), {_KEY: json.dumps(vars(kept))})
            self._index = index
        except UserError as error:
            if not self._told:
                then = f"goes on from step {self._index}" if self._index and self.path.is_file() else "begins anew"
                yield Note(f"The steps of this clip are not kept now, and if it is cut, it {then}: {error.message}")
            self._told = True

    def _remove(self) -> None:
        self._index = 0
        for path in (*self._previews, self.path):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    @functools.cached_property
    def _run(self) -> str:
        return run_digest(self._job)

    def _read(self) -> None:
        kept = _record(self.path)
        if kept.format != FORMAT or kept.run != self._run:
            seeds = ", ".join(map(str, kept.seeds[:8]))
            self.notes.append(
                f"{self.path} is of another request (seed {seeds}, step {kept.index} of {kept.total}) and is replaced."
            )
            return
        loaded: Any = mx.load(str(self.path), format="safetensors") if kept.seed is not None else {}
        if _content(loaded) != kept.content:
            raise UserError("its numbers are damaged.", "")
        points: dict[int, ResumePoint] = {}
        if kept.seed is not None:
            video, audio, adapted, *sounds = (loaded.get(name) for name in _NAMES)
            before = None if sounds[0] is None else Latents(None, *sounds)
            points[kept.seed] = ResumePoint(kept.index, Latents(video, audio, adapted), before)
            self._index = kept.index
        self.progress = DoneBefore(points, frozenset(kept.done))


def _record(path: Path) -> _Kept:
    header = read_header(path)
    header.check_complete()
    return build(_Kept, parse_json(header.metadata.get(_KEY, ""), "The record"), "The record", "")


def as_it_began(request: Request, output: Path) -> Request | None:
    """The request with the seeds that its run which was cut drew; None where there is no such run."""
    try:
        kept = _record(file_beside(output))
        return drawn_before(request, kept.seeds, kept.takes)
    except UserError:
        return None


def previews_left(output: Path) -> list[Path]:
    """Names of the previews that a run which was cut may have left; none where it wrote none."""
    try:
        return previews_of(output) if _record(file_beside(output)).previews else []
    except UserError:
        return []


def run_digest(job: Plan) -> str:
    """sha256 of all that a run's bits follow from: what its clips' metadata keep, the contents of the files that it is
    given, and what computes them."""
    record = [
        FORMAT, clip_record(job, None), given_hashes(job), job.model.digest, job.machine.backend, platform.machine(),
        version("mlx"), blas.identity() if job.machine.backend == "cpu" else "",
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


Files = list[tuple[list[Path], dict[str, Any]]]
"""Of each clip, or take of one: its files, the main one first, and what the main one's metadata keep."""


def files_of(job: Plan, output: Output, seed: int) -> Files:
    """The files of one seed of a run."""
    settings = job.settings
    if not settings.takes:
        return [(output.names(settings, seed), clip_record(job, seed))]
    takes = range(1, len(settings.takes) + 1)
    each = [output.names(settings, seed, take) for take in takes]
    if output.tracks:
        return [([output.main(settings, seed), *itertools.chain(*each)], clip_record(job, seed))]
    return [(names, take_record(job, seed, take)) for names, take in zip(each, takes, strict=True)]


def written_before(files: Files) -> set[Path]:
    """Those that are there because this run wrote them: beside a main file that keeps its record."""
    found: set[Path] = set()
    for names, record in files:
        with suppress(UserError):  # it is missing, or holds none
            if read_metadata(names[0]) == json.loads(json.dumps(record)):
                found |= {path for path in names if path.exists()}
    return found


def _content(arrays: Mapping[str, mx.array]) -> str:
    """sha256 of tensors, names and shapes included."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = np.asarray(arrays[name])
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
