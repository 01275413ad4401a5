"""What a run would need, told before the button that starts it."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from mlx_ltxw.errors import UserError
from mlx_ltxw.printing import readable
from mlx_ltxw.studio import texts
from mlx_ltxw.studio.asked import Asked
from mlx_ltxw.studio.pages.form import Form
from mlx_ltxw.studio.pages.parts import button, say
from mlx_ltxw.studio.wording import worded, worded_error


class PlanBar:
    """The line with the plan and the button."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._studio = form.studio
        with ui.element("div").classes("plan"):
            with ui.element("div").classes("plan-words").props('aria-live="polite"'):
                self._fault = ui.label().classes("fault").props('role="alert"')
                self._line = ui.label().classes("plan-line")
                self._notes = ui.element("ul").classes("hints")
            self._details = button(texts.PLAN_DETAILS, self._show_details).classes(add="details")
            self._button = button(texts.MAKE_IT, self._make, kind="main").props('data-make=""')
        self._answer: dict[str, Any] = {}
        form.when_still(self.plan)

    async def plan(self) -> None:
        """Plans what is filled in, and tells it."""
        if not self._form.draft.complete and self._form.fault is None:
            self._tell(line=texts.INCOMPLETE, ready=False)
            return
        try:
            answer = await self._studio.helper.ask("plan", self._asked().as_dict())
        except UserError as error:
            self._tell(fault=str(worded_error(error)))
            return
        self._answer = answer
        if "unknown" in answer:
            self._tell(line=texts.NOT_HERE_YET, label=texts.DOWNLOAD_AND_MAKE)
            return
        need = texts.NEEDS.format(need=readable(answer["peak"]), limit=readable(answer["limit"]))
        seconds = self._studio.queue.seconds_for(answer["asked"]["model"], answer["work"])
        time = texts.NO_TIME_YET if seconds is None else texts.ABOUT_SECONDS.format(time=texts.in_time(seconds))
        size = "" if answer["asked"]["request"]["audio_only"] else f"{answer['width']} × {answer['height']}, "
        parts = len(answer["asked"]["parts"])
        clips = texts.PARTS.format(count=parts) if parts else f"{answer['clips']} × " if answer["clips"] > 1 else ""
        length = f"{clips}{sum(answer['seconds']):.1f} s"
        line = f"{size}{length}, {answer['steps']} steps · {need} · {time}"
        self._tell(line=line, notes=[worded(note) for note in answer["notes"]])

    def _asked(self) -> Asked:
        facts = self._form.facts
        if facts is None:
            raise self._form.fault or UserError(*texts.HELPER_DIED)
        return self._form.draft.asked(facts, self._studio.model)

    def _tell(
        self, *, line: str = "", fault: str = "", notes: list[str] | None = None, label: str = "", ready: bool = True
    ) -> None:
        self._fault.set_text(fault)
        self._line.set_text(line)
        self._button.set_text(label or texts.MAKE_IT)
        self._button.set_enabled(ready and not fault)
        self._details.set_visibility(ready and "parts" in self._answer and not fault)
        self._notes.clear()
        with self._notes:
            for note in notes or ():
                with ui.element("li"):
                    ui.label(note)

    async def _make(self) -> None:
        self._button.disable()  # no second job for a second click
        try:
            asked = self._asked()
            answer = await self._studio.helper.ask("plan", asked.as_dict())
            self._studio.queue.add(asked.kind, asked.title, answer["asked"], answer.get("work"))
        except UserError as error:
            self._tell(fault=str(worded_error(error)))
            say(str(worded_error(error)), bad=True)
        else:
            say(texts.QUEUED)
        finally:
            self._button.enable()

    def _show_details(self) -> None:
        rows = [(need["name"], *(need[key] for key in ("weights", "activations", "peak", "read")), need["choice"])
                for need in self._answer.get("parts", ())]  # fmt: skip
        with ui.dialog(value=True), ui.card().classes("dialog wide"):
            ui.label(worded(str(self._answer.get("recipe", "")))).classes("muted")
            with ui.element("table").classes("facts"):
                with ui.element("thead"), ui.element("tr"):
                    for name in texts.PLAN_COLUMNS:
                        with ui.element("th").props('scope="col"'):
                            ui.label(name)
                with ui.element("tbody"):
                    for name, weights, other, peak, read, note in rows:
                        with ui.element("tr"):
                            for text in (name, *map(readable, (weights, other, peak, read))):
                                with ui.element("td"):
                                    ui.label(text)
                        if note:
                            with ui.element("tr"), ui.element("td").props('colspan="5"'):
                                ui.label(note).classes("muted")
