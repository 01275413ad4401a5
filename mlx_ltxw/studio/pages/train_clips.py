"""A folder of clips as a table: players, captions that are edited in place, and what the data check found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nicegui import background_tasks, ui
from nicegui.element import Element

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import texts_train as texts
from mlx_ltxw.studio.pages.parts import button, row, section, switch, text_field
from mlx_ltxw.studio.shown_media import CLIP_SETS, clip_url
from mlx_ltxw.studio.state import Studio

AT_ONCE = 40
"""Rows that are laid out before somebody asks for more."""
_FOLDER = "train_folder"


class ClipPlayer(Element, component="../static/clip.js"):
    """Plays a clip over its waveform, on which the cuts are marked.

    Args:
        data: As `clip.js` takes it.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__()
        self._props["data"] = data


@dataclass
class SaidOfAll:
    """What is said of clips whose caption does not tell; the fields of the page."""

    model: str = ""
    speaker: str = ""
    manner: str = ""
    scene: str = ""
    audio_only: bool = False

    def as_values(self) -> dict[str, Any]:
        """As the helper is asked, and as a training job has it."""
        values: dict[str, Any] = {
            name: text.strip() or None for name, text in vars(self).items() if name != "audio_only"
        }
        return {**values, "audio_only": self.audio_only}


class ClipTable:
    """The table, and the field for its folder.

    Attributes:
        folder: The folder that was looked at; None while none was.
        labels: What is said of clips that do not tell.
        settings: Gives the training options that the check needs.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.folder: str | None = None
        self.labels = SaidOfAll()
        self.settings: Callable[[], list[str]] = list
        self._rows: list[ClipRow] = []
        self._found: list[tuple[int, dict[str, Any]]] = []
        self._number = ""
        self._looking = False

    def build(self) -> None:
        """Lays it out."""
        with section(texts.CLIPS, key="clips"):
            with row():
                self.input = text_field(
                    texts.FOLDER,
                    self.studio.store.setting(_FOLDER),
                    self._typed,
                    hint=texts.FOLDER_HINT,
                )
                self.input.props["list"] = "train-folders"
                self.input.on("keydown.enter", self.look)
                self.button = button(texts.LOOK, self.look, kind="main")
            self.folders = ui.element("datalist").props('id="train-folders"')
            self.told = ui.label(texts.FOLDER_HELP).classes("train-state").props('role="status"')
            self.about = ui.element("div")
            self.space = ui.element("div")

    async def look(self) -> None:
        """Checks the folder, and lays its clips out."""
        if self._looking:
            return
        self._looking = True
        self.button.disable()
        try:
            found = await self._checked(self.input.value or "")
        except UserError as error:
            self._say(str(error), wrong=True)
        else:
            self.folder = (self.input.value or "").strip()
            self.studio.store.set_setting(_FOLDER, self.folder)
            self._lay_out(found)
        finally:
            self._looking = False
            self.button.enable()

    async def save(self, name: str, text: str, seen: str | None) -> dict[str, Any]:
        """Writes a caption; see `clips.save_caption`.

        Raises:
            UserError: it is none, or the file has changed.
        """
        labels = self.labels.as_values()
        values = {key: labels[key] for key in ("speaker", "manner", "scene")}
        return await self.studio.helper.ask(
            "save_caption", {"data": self.folder, "name": name, "text": text, "seen": seen, **values}
        )

    async def read(self, name: str) -> str | None:
        """What stands in a caption's file now."""
        try:
            found = await self.studio.helper.ask("read_caption", {"data": self.folder, "name": name})
        except UserError:
            return None
        text: str | None = found["text"]
        return text

    async def check_again(self) -> None:
        """Shows what the check finds now, in the rows that are there."""
        try:
            found = await self._checked(self.folder or "")
        except UserError as error:
            self._say(str(error), wrong=True)
            return
        self._summarise(found)
        by_name = {one["name"]: one for one in found["rows"]}
        self._found = [*enumerate(found["rows"])]
        for shown in self._rows:
            if shown.name in by_name:
                shown.show_findings(by_name[shown.name])

    async def _checked(self, folder: str) -> dict[str, Any]:
        values = {"data": folder, "settings": self.settings(), **self.labels.as_values()}
        self._say(texts.LOOKING)
        while True:
            found = await self.studio.helper.ask("check_clips", values)
            if "rows" in found:
                return found
            self._say(texts.LISTENED.format(**{**found, "stage": texts.STAGES[found["stage"]]}))

    def _lay_out(self, found: dict[str, Any]) -> None:
        self._summarise(found)
        rows = found["rows"]
        self._found = [*enumerate(rows)]
        self._number = CLIP_SETS.add([Path(one["path"]) if one["playable"] else None for one in rows])
        self.space.clear()
        with self.space:
            if not all(one["editable"] for one in rows):
                ui.label(texts.READ_ONLY).classes("train-hint")
            switch(texts.FILTER, False, self._filter)
            self.list = ui.element("div")
        self._filter(False)

    def _filter(self, only: bool) -> None:
        """Lays out all rows, or those with findings."""
        self._rows = []
        self.list.clear()
        self._more([(index, one) for index, one in self._found if one["findings"] or not only])

    def _more(self, rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """The first rows, and a button for the others."""
        with self.list:
            for index, one in rows[:AT_ONCE]:
                self._rows.append(ClipRow(self, one, self._number, index))
            if others := rows[AT_ONCE:]:

                def show_more() -> None:
                    more.delete()
                    self._more(others)

                more = button(texts.MORE.format(count=min(AT_ONCE, len(others))), show_more)

    def _summarise(self, found: dict[str, Any]) -> None:
        findings = [one for row in found["rows"] for one in row["findings"]] + found["about"]
        errors = sum(one["severity"] == "error" for one in findings)
        facts = found["statistics"]
        self._say(
            texts.SUMMARY.format(
                clips=facts["clips"], seconds=f"{facts['seconds']:.0f}", voices=facts["voices"], errors=errors,
                warnings=len(findings) - errors,
            )
        )  # fmt: skip
        self.about.clear()
        with self.about:
            show_findings(found["about"])

    def _say(self, text: str, wrong: bool = False) -> None:
        self.told.set_text(text)
        self.told.classes(add="train-error" if wrong else "", remove="" if wrong else "train-error")

    def _typed(self, text: str) -> None:
        background_tasks.create(self._complete(text))

    async def _complete(self, text: str) -> None:
        """Offers the folders that begin so."""
        if "/" not in text:
            return
        found = await self.studio.helper.ask("folders", {"text": text})
        self.folders.clear()
        with self.folders:
            for name in found["folders"]:
                ui.element("option").props["value"] = name


class ClipRow:
    """One file of the table.

    Attributes:
        name: Of the clip, within the folder.
    """

    def __init__(self, table: ClipTable, row: dict[str, Any], number: str, index: int) -> None:
        self.name: str = row["name"]
        self._table, self._seen = table, row["caption"]
        cuts = [[clip["start"], clip["end"]] for clip in row["clips"]]
        with ui.element("article").classes("train-clip").props(f'data-clip="{index}"'):
            with ui.element("div").classes("train-name"):
                ui.label(self.name)
                ui.label("" if row["seconds"] is None else f"{row['seconds']:.2f} s").classes("train-hint")
                self.cut = ui.label().classes("train-hint")
            ClipPlayer({
                "name": self.name, "file": clip_url(number, index, "file"), "picture": row["picture"], "cuts": cuts,
                "wave": clip_url(number, index, "wave.json"), "play": texts.PLAY, "pause": texts.PAUSE,
                "waveform": texts.WAVEFORM_OF.format(name=self.name), "unseen": texts.NOT_SHOWN,
            })  # fmt: skip
            with ui.element("div"):
                self.input = ui.textarea(value=(row["caption"] or "").strip(), placeholder=texts.NO_CAPTION)
                self.input.props("outlined dense autogrow hide-bottom-space")
                self.input.props["aria-label"] = texts.CAPTION_OF.format(name=self.name)
                if row["editable"]:
                    self.input.on("blur", self._save)
                    self.input.on("keydown.ctrl.enter", self._save)
                else:
                    self.input.props("readonly")
                self.state = ui.label().classes("train-state").props('role="status"')
                with ui.element("div").classes("train-buttons") as self.clash:
                    button(texts.TAKE_THEIRS, self._take_theirs)
                    button(texts.KEEP_MINE, self._keep_mine)
                self.clash.set_visibility(False)
                self.findings = ui.element("div")
        self.show_findings(row)

    def show_findings(self, row: dict[str, Any]) -> None:
        """What the check says of it, and where it is cut."""
        cuts = row["clips"]
        several = len(cuts) > 1
        places = ", ".join(f"{clip['start']:.2f}" for clip in cuts[1:])
        self.cut.set_text(texts.CUT_AT.format(count=len(cuts), places=places) if several else "")
        self.findings.clear()
        with self.findings:
            show_findings(row["findings"])

    async def _save(self) -> None:
        text = (self.input.value or "").strip()
        if text == (self._seen or "").strip():
            return
        try:
            saved = await self._table.save(self.name, text, self._seen)
        except UserError as error:
            self.state.set_text(f"{texts.UNSAVED}: {error}")
            self.state.classes(add="train-error")
            self.clash.set_visibility(await self._table.read(self.name) != self._seen)
            return
        self.clash.set_visibility(False)
        self._seen = saved["text"]
        self.input.set_value(saved["text"].strip())
        self.state.classes(remove="train-error")
        note = "" if saved["stands_for"].strip() == saved["text"].strip() else f" · {saved['stands_for']}"
        self.state.set_text(" ".join([f"{texts.SAVED}{note}", *saved["slips"]]))
        await self._table.check_again()

    async def _take_theirs(self) -> None:
        """Shows what another program wrote."""
        self._seen = await self._table.read(self.name)
        self.input.set_value((self._seen or "").strip())
        self.state.set_text("")
        self.clash.set_visibility(False)

    async def _keep_mine(self) -> None:
        """Writes over what another program wrote, which was seen now."""
        self._seen = await self._table.read(self.name)
        await self._save()


def show_findings(findings: Sequence[dict[str, str]]) -> None:
    """Errors and warnings, a line each."""
    for one in findings:
        wrong = one["severity"] == "error"
        ui.label(one["text"]).classes("train-finding" + (" train-error" if wrong else ""))
