"""Training runs: watched as they go, stopped, gone on with, heard, and used under Make."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

from nicegui import background_tasks, ui
from nicegui.element import Element

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import texts_train as texts
from mlx_ltxw.studio.deck import MOST_TAKES, Deck, DeckTake
from mlx_ltxw.studio.draft import Draft, DraftAdapter
from mlx_ltxw.studio.hub import News
from mlx_ltxw.studio.pages.form import keep, kept
from mlx_ltxw.studio.pages.frame import follow
from mlx_ltxw.studio.pages.parts import button, heading, section, text_field
from mlx_ltxw.studio.runs import ADAPTER, run_names, sample_file
from mlx_ltxw.studio.shown_media import sample_shown_url, shown_of
from mlx_ltxw.studio.state import Studio
from mlx_ltxw.studio.store import StudioJob

_APART = 1.0  # seconds between two looks at a run's figures


class Curves(Element, component="../static/curves.js"):
    """Curves over the steps of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.set({"lines": [], "steps": 1, "x": texts.STEP_AXIS, "label": texts.LOSS})

    def set(self, data: dict[str, Any]) -> None:
        """What they show, as `curves.js` takes it."""
        self._props["data"] = data
        self.update()


class RunList:
    """The runs, of which one is open.

    Args:
        studio: It has them.
        name: Of the one that is open; None for the last.
    """

    def __init__(self, studio: Studio, name: str | None) -> None:
        self.studio = studio
        self.name = name
        self._looked = 0.0
        self._asking = False
        self._model: str | None = None
        self._prompt = ""
        self._samples: list[tuple[int, int]] = []

    def build(self) -> None:
        """Lays it out, and keeps it up to date while the page is open."""
        with section(texts.RUNS, key="runs"):
            self.links = ui.element("nav").classes("train-buttons").props(f'aria-label="{texts.RUNS}"')
            self.space = ui.element("div").classes("train-run")
        names = self._names()
        self.name = self.name if self.name in names else next(iter(names), None)
        self.open(self.name)
        follow(self.studio, self._hear)

    def open(self, name: str | None) -> None:
        """Shows a run."""
        self.name, self._samples, self._looked = name, [], 0.0
        self.links.clear()
        with self.links:
            for one in self._names():
                link = button(one, functools.partial(self.open, one), kind="main" if one == name else "quiet")
                link.props["aria-label"] = texts.OPEN_RUN.format(name=one)
        self.space.clear()
        with self.space:
            if name is None:
                ui.label(texts.NO_RUNS).classes("train-hint")
                return
            self._lay_out()
        with self.space:
            ui.timer(0.01, self._look, once=True)

    def _lay_out(self) -> None:
        self.state = ui.label().props('role="status"')
        self.bar = ui.linear_progress(0.0, show_value=False).props("rounded size=8px")
        with ui.element("div").classes("train-buttons"):
            self.stop = button(texts.STOP, self._stop, kind="main")
            self.use = button(texts.USE, self._use, kind="main")
            self.steps = text_field(texts.STEPS_IN_ALL, "", lambda _: None).classes("short")
            self.resume = button(texts.RESUME, self._resume)
        self.told = ui.label().classes("train-state").props('role="status"')
        self.loss = ui.label(texts.LOSS).classes("train-h3").props('role="heading" aria-level="3"')
        self.curves = Curves()
        ui.label(f"{texts.EACH_STEP} (faint) · {texts.MEAN} · {texts.HELD_OUT} (dots)").classes("train-legend")
        heading(texts.SAMPLES, 3).classes("train-h3")
        self.sounds = ui.element("div").classes("wide")
        with self.sounds:
            ui.label(texts.NO_SAMPLES).classes("train-hint")

    def _hear(self, news: News) -> None:
        job = self.studio.store.job(int(news["job"])) if "job" in news else None
        if job is None or job.kind != "train" or job.asked.get("run") != self.name:
            return
        steady = news["event"] == "progress" or news.get("what") == "step"
        self._show_state(job)
        if not steady or time.monotonic() - self._looked > _APART:
            background_tasks.create(self._look())

    async def _look(self) -> None:
        """Reads the run's figures; one look at a time."""
        name = self.name
        if self._asking or name is None:
            return
        self._asking, self._looked = True, time.monotonic()
        try:
            job = self._job()
            found = (
                await self.studio.helper.ask("run", {"run": name}) if name in run_names(self.studio.folder) else None
            )
        except UserError as error:
            self.told.set_text(texts.READ_FAULT.format(reason=error))
            return
        finally:
            self._asking = False
        if name != self.name:
            return
        self._show_state(job, found)
        if found is not None:
            self._model = found["model"]
            self._show_losses(found)
            await self._show_samples(found)

    def _show_state(self, job: StudioJob | None, found: dict[str, Any] | None = None) -> None:
        running = job is not None and job.id == self.studio.queue.running
        waiting = job is not None and job.state == "waiting"
        progress = self.studio.queue.progress
        if running:
            stage = texts.STAGES.get(progress.stage, texts.STOPPING)
            count = f" {progress.done} / {progress.total}" if progress.total else ""
            left = f" · {texts.LEFT.format(time=_clock(progress.seconds_left))}" if progress.seconds_left else ""
            self.state.set_text(f"{stage}{count}{left}")
            self.bar.set_value(progress.share or 0.0)
        elif waiting:
            self.state.set_text(texts.WAITING)
        elif found is not None:
            reached = texts.REACHED.format(step=found["step"], steps=found["steps"])
            self.state.set_text(f"{reached} · {texts.FINISHED}" if found["finished"] else reached)
            self.bar.set_value(found["step"] / found["steps"])
        busy = running or waiting
        self.stop.set_visibility(busy)
        self.stop.set_text(texts.AT_ONCE if running and progress.stage == "cancelling" else texts.STOP)
        self.resume.set_visibility(not busy)
        self.steps.set_visibility(not busy)
        self.told.set_text(job.message if job is not None and job.state == "failed" else "")
        if found is not None:
            self.use.set_visibility(found["finished"])

    def _show_losses(self, found: dict[str, Any]) -> None:
        lines = [
            {"points": found["losses"], "kind": "faint"},
            {"points": found["mean"], "kind": "line"},
            {"points": found["held_out"], "kind": "dots"},
        ]
        text = texts.LOSS
        if found["mean"]:
            text = texts.LOSS_NOW.format(loss=f"{found['mean'][-1][1]:.4f}", step=found["step"])
        self.loss.set_text(text)
        self.curves.set({"lines": lines, "steps": found["steps"], "x": texts.STEP_AXIS, "label": text})

    async def _show_samples(self, found: dict[str, Any]) -> None:
        """A deck of one prompt: the base model, and the newest checkpoints."""
        samples = found["samples"]
        there = [(one["step"], one["number"]) for one in samples]
        if not there or there == self._samples:
            return
        self._samples = there
        prompts = list(dict.fromkeys(one["prompt"] for one in samples))
        if self._prompt not in prompts:
            self._prompt = prompts[0]
        self.sounds.clear()
        with self.sounds:
            ui.label(texts.SAMPLES_HELP).classes("train-hint")
            with ui.element("div").classes("train-buttons"):
                for prompt in prompts if len(prompts) > 1 else ():
                    open_it = functools.partial(self._open_samples, found, prompt)
                    button(prompt, open_it, kind="main" if prompt == self._prompt else "quiet")
            await self._deck([one for one in samples if one["prompt"] == self._prompt], found["run"])

    async def _open_samples(self, found: dict[str, Any], prompt: str) -> None:
        self._prompt, self._samples = prompt, []
        await self._show_samples(found)

    async def _deck(self, samples: list[dict[str, Any]], run: str) -> None:
        chosen = samples if len(samples) <= MOST_TAKES else [samples[0], *samples[1 - MOST_TAKES :]]
        try:
            Deck([await self._sample(run, one) for one in chosen], lambda _: None, judged=False)
        except UserError as error:
            ui.label(str(error)).classes("fault")

    async def _sample(self, run: str, sample: dict[str, Any]) -> DeckTake:
        step, number = sample["step"], sample["number"]
        shown = await shown_of(self.studio, sample_file(self.studio.folder, run, step, number))
        title = texts.AFTER.format(step=step) if step else texts.BASE
        sound, levels = (sample_shown_url(run, step, number, name) for name in ("sound.flac", "levels.png"))
        return DeckTake(step, title, "", None, None, sound, levels, shown, None)

    def _stop(self) -> None:
        job = self._job()
        if job is not None:
            self.studio.queue.cancel(job.id)

    def _use(self) -> None:
        """Opens Make with the finished adapter."""
        draft = kept(self.studio) or Draft()
        adapter = self.studio.folder.runs / str(self.name) / ADAPTER
        keep(self.studio, dataclasses.replace(draft, adapters=[DraftAdapter(str(adapter))], model=self._model or ""))
        ui.navigate.to("/")

    async def _resume(self) -> None:
        steps = (self.steps.value or "").strip()
        job = self._job()
        if job is not None and job.state in ("waiting", "running"):
            return
        asked = {"run": self.name, "settings": [f"steps={steps}"] if steps else []}
        if self.name not in run_names(self.studio.folder) and job is not None:
            asked = job.asked  # it ended before it wrote anything
        try:
            self.studio.queue.add("train", str(self.name), asked)
        except UserError as error:
            self.told.set_text(str(error))

    def _job(self) -> StudioJob | None:
        """The last job of the open run."""
        jobs = [*self.studio.store.open_jobs(), *self.studio.store.last_jobs(200)]
        return next((job for job in jobs if job.kind == "train" and job.asked.get("run") == self.name), None)

    def _names(self) -> list[str]:
        """Runs that wait, and those that are there."""
        jobs = [job for job in self.studio.store.open_jobs() if job.kind == "train"]
        return list(dict.fromkeys([*(str(job.asked["run"]) for job in jobs), *run_names(self.studio.folder)]))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
