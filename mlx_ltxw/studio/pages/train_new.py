"""The form of a new training run."""

from __future__ import annotations

import dataclasses
from typing import Any

from nicegui import ui

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import texts_train as texts
from mlx_ltxw.studio.pages.train_clips import ClipTable, heading
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
        heading(texts.RUN)
        with ui.element("div").classes("train-fields"):
            self.name = ui.input(texts.NAME).props("outlined dense")
            for name, label in FIRST.items():
                self._option(options[name], label)
            for name, label in _OF_ALL_CLIPS.items():
                self._label(name, label)
            ui.checkbox(texts.AUDIO_ONLY, on_change=lambda event: setattr(labels, "audio_only", bool(event.value)))
        with ui.expansion(texts.MORE_OPTIONS).classes("wide"):
            for group, fields in groups.items():
                ui.label(group.capitalize()).classes("train-hint")
                with ui.element("div").classes("train-fields"):
                    for option in fields:
                        if option.name not in FIRST:
                            self._option(option, option.name)
        with ui.element("div").classes("train-buttons"):
            ui.button(texts.START, on_click=self.start).props("unelevated no-caps")
            self.told = ui.label().classes("train-state").props('role="status"')

    def _label(self, name: str, label: str) -> None:
        labels = self.table.labels
        field = ui.input(label, value=getattr(labels, name)).props("outlined dense")
        field.on_value_change(lambda event: setattr(labels, name, event.value or ""))

    def _option(self, option: dataclasses.Field[Any], label: str) -> None:
        default = as_yaml(option.default)
        field = ui.input(label, placeholder=default).props("outlined dense stack-label")
        field.props["hint"] = option.metadata["help"]
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
