"""The queue on the page: what runs, with its progress and a preview, and what waits."""

from __future__ import annotations

import functools
import time
from typing import Any

from nicegui import ui

from mlx_ltxw.studio import texts
from mlx_ltxw.studio.media import preview_url
from mlx_ltxw.studio.pages.frame import follow
from mlx_ltxw.studio.pages.parts import button, icon_button, section
from mlx_ltxw.studio.queue import JobProgress
from mlx_ltxw.studio.state import Studio
from mlx_ltxw.studio.store import StudioJob

_SHOWN = 8
"""Jobs in sight of those that wait, and of those that failed."""
_CANCELLED_SHOWN = 600.0
"""Seconds for which a cancelled job can be taken up again from the list."""


def show_jobs(studio: Studio) -> None:
    """The section; it follows the studio's news."""
    with section(texts.QUEUE, key="queue"):
        running = _Running(studio)

        @ui.refreshable
        def waiting() -> None:
            _waiting(studio)

        waiting()

    def hear(news: dict[str, Any]) -> None:
        if news["event"] in ("progress", "preview", "note"):
            running.show()
        elif news["event"] != "written":
            running.show()
            waiting.refresh()

    follow(studio, hear)


class _Running:
    """The job at work; its elements stay, and their words change."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        with ui.element("div").classes("running") as self._box:
            self._picture = ui.element("img").classes("preview")
            self._picture.props["alt"] = texts.PREVIEW
            with ui.element("div").classes("grow"):
                self._title = ui.label().classes("job-title")
                self._bar = ui.linear_progress(0, show_value=False, size="6px").props("rounded instant-feedback")
                self._bar.props["aria-label"] = texts.PROGRESS
                self._stage = ui.label().classes("muted").props('role="status"')
            self._cancel = icon_button("close", texts.CANCEL, self._end)
        self._empty = ui.label(texts.QUEUE_EMPTY).classes("muted")
        self.show()

    def show(self) -> None:
        """What is known now."""
        number, progress = self._studio.queue.running, self._studio.queue.progress
        job = None if number is None else self._studio.store.job(number)
        self._box.set_visibility(job is not None)
        self._empty.set_visibility(job is None and not self._studio.store.open_jobs())
        if job is None:
            return
        self._title.set_text(job.title)
        self._stage.set_text(stage_words(progress))
        share = progress.share
        self._bar.set_value(share or 0)  # still where nothing is counted: what moves would take cores from the job
        self._picture.set_visibility(bool(progress.preview))
        if progress.preview:
            self._picture.props["src"] = preview_url(job.id, "png", progress.preview)

    def _end(self) -> None:
        if self._studio.queue.running is not None:
            self._studio.queue.cancel(self._studio.queue.running)


def stage_words(progress: JobProgress) -> str:
    """`Step 3 of 8, 12 s left`."""
    words = texts.STAGES.get(progress.stage, progress.stage)
    if progress.total:
        words += f" {progress.done} of {progress.total}"
    if progress.seconds_left:
        left = max(0.0, progress.seconds_left - (time.monotonic() - progress.told_at))
        words += f", {texts.LEFT.format(time=texts.in_time(left))}"
    return words


def _waiting(studio: Studio) -> None:
    jobs = [job for job in studio.store.open_jobs() if job.id != studio.queue.running]
    failed = [job for job in studio.store.last_jobs(20) if _to_tell(job)][:_SHOWN]
    if not jobs and not failed:
        return
    with ui.element("ol").classes("jobs"):
        for job in jobs[:_SHOWN]:
            with ui.element("li"):
                ui.label(job.title).classes("job-title grow")
                ui.label(texts.WAITING).classes("muted")
                icon_button(
                    "close", f"{texts.CANCEL}: {job.title[:60]}", functools.partial(studio.queue.cancel, job.id)
                )
        if len(jobs) > _SHOWN:
            with ui.element("li").classes("muted"):
                ui.label(texts.MORE_WAIT.format(count=len(jobs) - _SHOWN))
        for job in failed:
            with ui.element("li"):
                with ui.element("div").classes("grow"):
                    ui.label(job.title).classes("job-title")
                    ui.label(job.message or texts.CANCELLED).classes("fault" if job.message else "muted")
                button(texts.TRY_AGAIN, functools.partial(studio.queue.again, job.id))
                icon_button("close", f"{texts.DISMISS}: {job.title[:60]}", functools.partial(_dismiss, studio, job.id))


def _dismiss(studio: Studio, number: int) -> None:
    studio.store.dismiss_job(number)
    studio.hub.tell("dismissed", job=number)


def _to_tell(job: StudioJob) -> bool:
    """Whether the list still has a job that ended: a failed one until it is dismissed, a cancelled one for a while."""
    if job.state == "cancelled":
        return job.ended is not None and time.time() - job.ended < _CANCELLED_SHOWN
    return job.state == "failed"
