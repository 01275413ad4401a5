"""The queue: one job runs, the others wait; it outlives reloads, restarts and kills."""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import texts
from mlx_ltxw.studio.child import Child
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.hub import Hub
from mlx_ltxw.studio.store import Store, StudioJob

MOST_WAITING = 200
"""Jobs that may wait; a page that asks for more is refused with a sentence."""
MOST_TRIES = 2
"""How often a job is begun whose worker dies on it."""
_PATIENCE = {"train": 3600.0}
"""Kind of job -> seconds that a worker gets to end it by itself once it is cancelled: a step of training is saved."""
_LEAST_PATIENCE = 3.0
_PARTING = {"train": 60.0}
"""The same when the server ends; what is killed then goes on from its last checkpoint."""
_LEAST_PARTING = 5.0


@dataclass
class JobProgress:
    """How far the running job is; the server's memory alone.

    Attributes:
        stage: `opening`, `encoding`, `loading`, `denoising`, `decoding`, `part`, or a word of another kind of job.
        done, total: Of the stage; 0 of 0 where it has no steps.
        seconds_left: Of the stage; None where it is not known.
        told_at: When that was said, in seconds of the monotonic clock.
        preview: The step whose preview is there, or 0.
        notes: What the run had to say.
        values: All that the last event of the job said.
    """

    stage: str = "opening"
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    told_at: float = field(default_factory=time.monotonic)
    preview: int = 0
    notes: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def share(self) -> float | None:
        """0 to 1; None where there is nothing to count."""
        return self.done / self.total if self.total else None


class Queue:
    """Hands jobs to the worker, one at a time, and what it says to the store and the pages.

    Args:
        store: Keeps the jobs.
        folder: The studio's.
        hub: Tells the pages.

    Attributes:
        running: The number of the job at work; None for none.
        progress: Of that job.
    """

    def __init__(self, store: Store, folder: StudioFolder, hub: Hub) -> None:
        self.running: int | None = None
        self.progress = JobProgress()
        self._store, self._folder, self._hub = store, folder, hub
        self._closing = False
        self._cancelled = False
        log = folder.path / "worker.log"
        self._worker = Child("mlx_ltxw.studio.worker", [str(folder.path)], log, self._heard, self._died)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def worker_pid(self) -> int | None:
        """Of the process that computes."""
        return self._worker.pid

    async def start(self) -> None:
        """Takes up what a server before this one left, and starts the worker."""
        for job in self._store.open_jobs():
            if job.state == "running":
                self._store.end_job(job.id, "waiting")
        await self._worker.start()
        self._next()

    async def stop(self) -> None:
        """Ends the worker; the job at work goes on with the next server."""
        self._closing = True
        job = None if self.running is None else self._store.job(self.running)
        await self._worker.stop(_PARTING.get(job.kind if job else "", _LEAST_PARTING))

    def add(self, kind: str, title: str, asked: Mapping[str, Any], work: float | None = None) -> int:
        """Puts a job at the end; its number.

        Raises:
            UserError: too many wait.
        """
        if len(self._store.open_jobs()) > MOST_WAITING:
            raise UserError(*texts.QUEUE_FULL)
        number = self._store.add_job(kind, title, asked, work)
        self._hub.tell("queued", job=number)
        self._next()
        return number

    def again(self, number: int) -> None:
        """Puts a job that failed or was cancelled back; it goes on from its last kept step, if there is one."""
        job = self._store.job(number)
        if job is not None and job.state in ("failed", "cancelled"):
            self._store.end_job(number, "waiting")
            self._hub.tell("queued", job=number)
            self._next()

    def cancel(self, number: int) -> None:
        """Takes a job out, also the one at work; asked twice, at once."""
        job = self._store.job(number)
        if job is None or job.state not in ("waiting", "running"):
            return
        if number != self.running:
            self._store.end_job(number, "cancelled")
            self._hub.tell("cancelled", job=number)
            return
        if self._cancelled:
            self._worker.kill()
            return
        self._cancelled = True
        self.progress.stage = "cancelling"
        self._hub.tell("progress", job=number, stage="cancelling")
        self._worker.send(do="cancel", job=number)
        self._later(self._insist(number, _PATIENCE.get(job.kind, _LEAST_PATIENCE)))

    def _next(self) -> None:
        if self._closing or self.running is not None or not self._worker.running:
            return
        job = self._store.next_job()
        if job is None:
            return
        self._store.begin_job(job.id)
        self.running, self.progress, self._cancelled = job.id, JobProgress(), False
        self._worker.send(do="job", job=job.id, kind=job.kind, asked=job.asked, again=job.started is not None)
        self._hub.tell("started", job=job.id)

    def _heard(self, event: dict[str, Any]) -> None:
        """One line of the worker's."""
        name, number = event.pop("event"), event.pop("job", None)
        if name == "ready":
            self._next()
        if number is None or number != self.running:
            return
        if name in ("done", "failed", "cancelled"):
            message = " ".join(filter(None, (event.get("message"), event.get("hint"))))
            self._end(number, name, message)
            return
        if name == "written":
            job = self._store.job(number)
            model = job.asked.get("model") if job else None
            event = {"take": self._store.add_take({"job": number, "model": model, **event})}
        self._note(name, event)
        self._hub.tell(name, job=number, **event)

    def _note(self, name: str, event: Mapping[str, Any]) -> None:
        progress = self.progress
        if name == "note":
            progress.notes.append(str(event["text"]))
        elif name == "preview":
            progress.preview = int(event["step"])
        elif name == "progress" and not self._cancelled:
            progress.stage = str(event["stage"])
            progress.done, progress.total = int(event.get("done", 0)), int(event.get("total", 0))
            progress.seconds_left, progress.told_at = event.get("seconds_left"), time.monotonic()
            progress.values = dict(event)

    def _end(self, number: int, state: Any, message: str = "") -> None:
        self.running = None
        self._store.end_job(number, state, message)
        if state == "done":
            self._learn(number)
        if state == "cancelled":
            self._clear(number)
        self._hub.tell(state, job=number, message=message)
        self._next()

    def seconds_for(self, model: str | None, work: float) -> float | None:
        """How long a job of so much work will take, after those made before; None where there were none."""
        paces = json.loads(self._store.setting(_pace(model), "[]"))
        return statistics.median(paces) * work if paces else None

    def _learn(self, number: int) -> None:
        """Remembers a job's pace; not of one that was cut, whose work was done in part before."""
        job = self._store.job(number)
        if job is None or not job.work or job.tries > 1 or job.started is None or job.ended is None:
            return
        name = _pace(job.asked.get("model"))
        paces = [*json.loads(self._store.setting(name, "[]")), (job.ended - job.started) / job.work]
        self._store.set_setting(name, json.dumps(paces[-5:]))

    def _died(self, code: int) -> None:
        """The worker is gone: for good when the server ends, else another takes its place."""
        if self._closing:
            return
        number, self.running = self.running, None
        job = None if number is None else self._store.job(number)
        if job is not None:
            self._after_death(job, code)
        self._later(self._restart(delay=0.0 if job else 1.0))

    def _after_death(self, job: StudioJob, code: int) -> None:
        if self._cancelled:
            self._end(job.id, "cancelled")
        elif job.tries < MOST_TRIES:
            self._store.end_job(job.id, "waiting")
            self._hub.tell("queued", job=job.id)
        else:
            self._end(job.id, "failed", texts.worker_died(code))

    async def _restart(self, delay: float) -> None:
        await asyncio.sleep(delay)
        await self._worker.start()
        self._next()

    async def _insist(self, number: int, patience: float) -> None:
        """Ends a worker that is in the middle of a long step."""
        await asyncio.sleep(patience)
        if self.running == number and self._cancelled:
            self._worker.kill()

    def _clear(self, number: int) -> None:
        """Removes what is left of a job that is wanted no more; what it finished stays."""
        for path in self._folder.takes.glob(f"{number:06d}*"):
            with suppress(OSError):
                if path.suffix == ".parts":
                    shutil.rmtree(path)
                elif path.suffix == ".unfinished" or ".preview." in path.name:
                    path.unlink()

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _pace(model: str | None) -> str:
    return f"pace {model or 'built-in'}"
