"""How it sounds: adapters with their strength, and what they do to the picture."""

from __future__ import annotations

from functools import partial
from typing import Any

from nicegui import ui

from mlx_ltxw.studio import texts
from mlx_ltxw.studio.draft import DraftAdapter
from mlx_ltxw.studio.pages.form import Form
from mlx_ltxw.studio.pages.parts import button, choice, icon_button, section, text_field
from mlx_ltxw.studio.runs import finished_adapters


def show_voice(form: Form) -> None:
    """The section."""
    draft = form.draft
    with section(texts.VOICE, key="voice"):

        @ui.refreshable
        def adapters() -> None:
            if not draft.adapters:
                ui.label(texts.NO_ADAPTER).classes("muted")
            for number, adapter in enumerate(draft.adapters, 1):
                _adapter(form, adapter, number, adapters.refresh)

        adapters()

        def add() -> None:
            known = known_adapters(form)
            draft.adapters.append(DraftAdapter(known[0] if known else ""))
            form.changed()
            adapters.refresh()

        button(texts.ADD_ADAPTER, add, icon="add")
        with ui.element("div").classes("line"):
            choice(texts.LOCK, texts.LOCKS, draft.lock_video, lambda value: form.set(lock_video=value))
            text_field(
                texts.TAKES, draft.takes, lambda value: form.set(takes=value), hint=texts.TAKES_HINT, lines=2
            ).classes("takes")


def known_adapters(form: Form) -> list[str]:
    """Adapters to offer: the built-in ones of a model, and those trained here."""
    return [*(form.facts.adapters if form.facts else ()), *finished_adapters(form.studio.folder).values()]


def _adapter(form: Form, adapter: DraftAdapter, number: int, refresh: Any) -> None:
    put, remove = partial(form.putting, adapter), form.removing(form.draft.adapters, adapter, refresh)
    with ui.element("div").classes("line"):
        known = known_adapters(form)
        text_field(texts.ADAPTER, adapter.source, put("source"), hint=texts.ADAPTER_HINT, offers=known)
        strength = text_field(texts.STRENGTH, adapter.strength, put("strength"), hint=texts.STRENGTH_HINT)
        strength.classes(add="short")
        icon_button("close", f"{texts.REMOVE_ADAPTER} {number}", remove)
