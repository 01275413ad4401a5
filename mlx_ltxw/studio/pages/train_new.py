"""The form of a new training run."""

from __future__ import annotations

import dataclasses
from typing import Any

from nicegui import ui

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import texts_train as texts
from mlx_ltxw.studio.pages.parts import button, heading, row, section, switch, text_field
from mlx_ltxw.studio.pages.train_clips import ClipTable
from mlx_ltxw.studio.pages.train_runs import RunList
from mlx_ltxw.studio.state import Studio
from mlx_ltxw.train.config import TrainConfig, as_yaml

FIRST = {
    "steps": texts.STEPS,
    "rank": texts.RANK,
    "learning_rate": texts.LEARNING_RATE,
    "batch_size": texts.BATCH_SIZE,
}
"""Options that are shown before all others."""

_OF_ALL_CLIPS = {"speaker": texts.SPEAKER, "manner": texts.MANNER, "scene": texts.SCENE, "model": texts.MODEL}


class NewRun:
    """The form.

    Args:
        studio: Has the queue.
        table: Has the folder, and what is said of its clips.
        runs: Shows the run once it is begun.
    """

    def __init__(self, studio: Studio, table: ClipTable, runs: RunList) -> None:
        self.studio, self.table, self.runs = studio, table, runs
        self._options: dict[str, tuple[Any, str]] = {}  # name -> field, default
        table.settings = self.settings

    def build(self) -> None:
        """Lays it out."""
        groups = TrainConfig.by_group()
        options = {option.name: option for fields in groups.values() for option in fields}
        labels = self.table.labels
        labels.model = self.studio.model or ""
        with section(texts.RUN, key="new-run"):
            with ui.element("div").classes("train-fields"):
                with ui.element("div"):
                    self.name = text_field(texts.NAME, "", lambda _: None, hint=texts.NAME_HINT)
                for name, label in FIRST.items():
                    self._option(options[name], label)
                for name, label in _OF_ALL_CLIPS.items():
                    self._label(name, label)
            switch(texts.AUDIO_ONLY, False, lambda on: setattr(labels, "audio_only", on))
            with ui.expansion(texts.MORE_OPTIONS).classes("more"):
                for group, fields in groups.items():
                    heading(group.capitalize(), 3).classes("train-h3")
                    with ui.element("div").classes("train-fields"):
                        for option in fields:
                            if option.name not in FIRST:
                                self._option(option, option.name)
            with row():
                button(texts.START, self.start, kind="main")
                self.told = ui.label().classes("train-state").props('role="status"')

    def _label(self, name: str, label: str) -> None:
        labels = self.table.labels
        with ui.element("div"):
            text_field(label, getattr(labels, name), lambda text: setattr(labels, name, text))

    def _option(self, option: dataclasses.Field[Any], label: str) -> None:
        default = as_yaml(option.default)
        with ui.element("div"):
            field = text_field(label, "", lambda _: None, hint=default)
            ui.label(option.metadata["help"]).classes("train-help")
        self._options[option.name] = field, default

    def settings(self) -> list[str]:
        """What is set otherwise than by default, `key=value`."""
        said = {name: str(field.value or "").strip() for name, (field, _) in self._options.items()}
        return [f"{name}={value}" for name, value in said.items() if value and value != self._options[name][1]]

    async def start(self) -> None:
        """Puts the run into the queue."""
        try:
            if self.table.folder is None:
                raise UserError(*texts.NEED_FOLDER)
            asked = {
                "run": (self.name.value or "").strip(), "data": self.table.folder, "settings": self.settings(),
                **self.table.labels.as_values(),
            }  # fmt: skip
            await self.studio.helper.ask("check_new_run", asked)
            self.studio.queue.add("train", asked["run"], asked)
        except UserError as error:
            self.told.set_text(str(error))
            self.told.classes(add="train-error")
            return
        self.told.classes(remove="train-error")
        self.told.set_text(texts.STARTED.format(name=asked["run"]))
        self.runs.open(asked["run"])
