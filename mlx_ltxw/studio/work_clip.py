"""Clips and scripts in the worker: the same `takes.make` as the command's, with the model kept from job to job."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.measure import Measurement, measure
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.pipeline.events import Adapted, Conditioned, Resumed, Step
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.prompts.manner import with_manner
from mlx_ltxw.prompts.registers import parse
from mlx_ltxw.prompts.takes import read_take
from mlx_ltxw.studio.asked import Asked
from mlx_ltxw.studio.heard import find
from mlx_ltxw.studio.place import Place, TellServer
from mlx_ltxw.takes.events import Decoding, Note, PartBegun, Previewed, Suspect, TakeEvent, Written
from mlx_ltxw.takes.make import fit, make
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.takes.output import Output
from mlx_ltxw.takes.script import make_script, part_requests, plan_parts
from mlx_ltxw.takes.unfinished import files_of, written_before
from mlx_ltxw.weights.model_dir import ModelDir

_LOUDNESS_RATE = 48_000
_PREVIEWS = 10
"""Of a clip, at most."""
_kept: dict[str, Networks] = {}
"""The networks of the last job's model: one at most."""


def work(asked: dict[str, Any], place: Place, tell: TellServer, cancelled: Callable[[], bool]) -> None:
    """Makes a clip's takes, or a script."""
    wanted = Asked.read(asked)
    tell("progress", stage="opening")
    model = open_model(wanted.model, wanted.text_encoder)
    if wanted.parts:
        parts = [part.part for part in wanted.parts]
        jobs = plan_parts(part_requests(parts, wanted.request, model), model, wanted.memory)
        output = _output(jobs[0], place, preview=0)
        events = make_script(jobs, output)
        tell("progress", stage="encoding", clips=len(jobs))
    else:
        job = fit(wanted.request, model, wanted.memory)
        output = _output(job, place, preview=-(-job.steps // _PREVIEWS))
        if place.again and (files := _finished(job, output)):
            for seed, number, path in files:
                tell("written", **_written(path, seed, number, _measured(path)))
            return
        events = make(job, output, _networks(model, job))
        tell("progress", stage="encoding", clips=len(job.settings.seeds))
    _follow(cast("Generator[TakeEvent, None, None]", events), place, tell, cancelled)


def _output(job: Plan, place: Place, preview: int) -> Output:
    alone = job.settings.audio_only
    heard = job.machine.backend != "cpu"  # there the vocoder takes longer than steps do, and the clip would wait for it
    path = place.folder.output(place.job, alone)
    return Output(path, overwrite=place.again, preview=preview, preview_sound=heard)


def _networks(model: ModelDir, job: Plan) -> Networks:
    """Those of the job before, if they are the same; a model that does not fit beside its decoders is not kept."""
    key = f"{model.digest} {job.dtype}"
    if key not in _kept:
        let_go()
        _kept[key] = Networks(model, job.dtype, keep=job.resident)
    networks = _kept[key]
    networks.keep = networks.keep and job.resident
    return networks


def let_go() -> None:
    """Gives the kept networks' memory back, for a job that needs it."""
    for one in _kept.values():
        one.close()
    _kept.clear()


def _finished(job: Plan, output: Output) -> list[tuple[int, int | None, Path]]:
    """The files of a job that was done when its server ended before it heard of it; else nothing."""
    found: list[tuple[int, int | None, Path]] = []
    for seed in job.settings.seeds:
        for number, (names, record) in enumerate(files_of(job, output, seed), 1):
            if written_before([(names, record)]) != {*names}:
                return []
            found.append((seed, number if job.settings.takes else None, names[0]))
    return found


def _follow(
    events: Generator[TakeEvent, None, None], place: Place, tell: TellServer, cancelled: Callable[[], bool]
) -> None:
    """Tells a run to its end."""
    pace = _Pace()
    with closing(events):
        for event in events:
            for name, values in _told(event, pace):
                tell(name, **values)
                if name == "written":  # so that Hear opens at once; what fails here is found again there
                    with suppress(UserError):
                        find({"path": str(place.folder.takes / values["file"])}, place.folder)
            if cancelled():
                return


class _Pace:
    """How long a step takes: the mean of those made in this run."""

    def __init__(self) -> None:
        self.seconds, self.steps = 0.0, 0
        self.began = time.monotonic()

    def left(self, step: Step) -> float:
        """Seconds to the last step."""
        self.seconds += step.seconds
        self.steps += 1
        return self.seconds / self.steps * (step.total - step.index)


def _told(event: TakeEvent, pace: _Pace) -> Iterable[tuple[str, dict[str, Any]]]:
    """What the server hears of an event."""
    if isinstance(event, Step):
        left = pace.left(event)
        stage = "denoising" if event.index < event.total else "decoding"
        done = {"done": event.index, "total": event.total} if stage == "denoising" else {}
        yield "progress", {"stage": stage, "seed": event.seed, "seconds_left": left, **done}
    elif isinstance(event, Resumed):
        yield "progress", {"stage": "denoising", "seed": event.seed, "done": event.index, "total": event.total}
    elif isinstance(event, Decoding):
        yield "progress", {"stage": "decoding", "seed": event.seed, "done": event.done, "total": event.total}
    elif isinstance(event, PartBegun):
        yield "progress", {"stage": "part", "done": event.number, "total": event.total}
    elif isinstance(event, Conditioned):
        yield "progress", {"stage": "loading"}
    elif isinstance(event, Previewed):
        yield "preview", {"files": [path.name for path in event.files], "step": event.index}
    elif isinstance(event, Adapted | Suspect):
        for note in event.notes:
            yield "note", {"text": note}
    elif isinstance(event, Note):
        yield "note", {"text": event.text}
    elif isinstance(event, Written) and event.files:
        main = event.files[0]
        yield "written", _written(main, event.seed, event.take, event.measurement or _measured(main))


def _measured(path: Path) -> Measurement:
    """Of what is put together, or was made before."""
    return measure(read_audio(path, _LOUDNESS_RATE), _LOUDNESS_RATE)


def _written(path: Path, seed: int, number: int | None, found: Measurement) -> dict[str, Any]:
    """A made file, in the fields of a `KeptTake`."""
    record = read_metadata(path)
    parts = record["parts"] if record.get("kind") == "script" else [record]
    said = [_said(part) for part in parts]
    return {
        "file": path.name, "kind": str(record.get("kind", "clip")), "seed": seed, "number": number,
        "prompt": "\n".join(prompt for prompt, _ in said), "asked_register": _asked_register(said), "record": record,
        "seconds": probe(path).duration or found.duration, "has_picture": path.suffix == ".mp4",
        "register": found.register, "confidence": found.confidence, "lufs": found.lufs, "voiced": found.voiced,
    }  # fmt: skip


def _said(part: Mapping[str, Any]) -> tuple[str, Sequence[str]]:
    """The text that a sound was read from and its adapters; those of its take, where it is one of several."""
    prompt, adapters = str(part["prompt"]), part["adapters"]
    if len(part.get("takes", ())) != 1:
        return prompt, adapters
    take = read_take(part["takes"][0])
    prompt = take.prompt or prompt
    prompt = prompt if take.manner is None else with_manner(prompt, take.manner)
    return prompt, adapters if take.adapters is None else take.adapters


def _asked_register(said: Sequence[tuple[str, Sequence[str]]]) -> str | None:
    """What the prompts and adapters ask for, where all ask for the same."""
    asked = {_register_of(*one) for one in said}
    return asked.pop() if len(asked) == 1 else None


def _register_of(prompt: str, adapters: Sequence[str]) -> str | None:
    if not adapters:
        return "normal"
    found = {turn.register for turn in parse(prompt).turns if turn.manner}
    return found.pop() if len(found) == 1 else None
