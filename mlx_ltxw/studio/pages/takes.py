"""A take on the page: its player, what it is, and what can be done with it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from nicegui import ui

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import texts
from mlx_ltxw.studio.draft import draft_of
from mlx_ltxw.studio.media import take_url
from mlx_ltxw.studio.pages.form import open_in_make
from mlx_ltxw.studio.pages.parts import button, icon_button, say
from mlx_ltxw.studio.state import Studio
from mlx_ltxw.studio.store import KeptTake
from mlx_ltxw.takes.describe import facts_of
from mlx_ltxw.takes.record import requests_of


def player(take: KeptTake) -> ui.element:
    """Plays a take; nothing is loaded before it is asked for."""
    kind = "video" if take.has_picture else "audio"
    made = ui.element(kind).classes("player").props(f'controls playsinline preload="none" src="{take_url(take.id)}"')
    if take.has_picture:
        made.props["poster"] = take_url(take.id, "png")
    made.props["aria-label"] = f"{texts.PLAY}: {take.prompt[:120]}"
    return made


def heard(take: KeptTake) -> str:
    """What was measured, and what was asked for where that is another thing."""
    if take.register is None:
        return ""
    found = texts.REGISTERS.get(take.register, take.register)
    if take.asked_register and take.asked_register != take.register:
        asked = texts.REGISTERS.get(take.asked_register, take.asked_register)
        return texts.ASKED_HEARD.format(heard=found, asked=asked)
    return found


def facts_line(take: KeptTake) -> str:
    """`seed 10 · 4.0 s · whispering · -16.1 LUFS`."""
    facts = [texts.SEED_OF.format(seed=take.seed), f"{take.seconds:.1f} s", heard(take)]
    facts += [] if take.lufs is None else [f"{take.lufs:.1f} LUFS"]
    return " · ".join(filter(None, facts))


def made_at(take: KeptTake) -> str:
    """The day and the minute."""
    return datetime.datetime.fromtimestamp(take.created).strftime("%Y-%m-%d %H:%M")


def star(studio: Studio, take: KeptTake) -> ui.button:
    """One star, on or off; Hear has five."""
    now = take.stars

    def turn() -> None:
        nonlocal now
        now = 0 if now else 1
        studio.store.update_take(take.id, stars=now)
        studio.hub.tell("changed", take=take.id)
        show()

    made = icon_button("star", texts.STAR, turn)

    def show() -> None:
        made.props(f"icon={'star' if now else 'star_border'} aria-pressed={str(bool(now)).lower()}")

    show()
    return made


def again(studio: Studio, take: KeptTake) -> None:
    """Fills Make in with a take's request."""
    try:
        draft = draft_of(list(requests_of(take.record)), take.model)
    except UserError as error:
        say(str(error), bad=True)
        return
    open_in_make(studio, draft)


def take_card(studio: Studio, take: KeptTake) -> ui.element:
    """A take to look at, listen to and go on from."""
    with ui.element("article").classes("take") as card:
        card.props["data-take"] = take.id
        player(take)
        with ui.element("div").classes("take-words"):
            ui.label(take.prompt).classes("prompt")
            ui.label(facts_line(take)).classes("muted")
            with ui.element("div").classes("line tight"):
                star(studio, take)
                ui.link(texts.LISTEN, f"/hear?takes={take.id}").classes("action")
                change = button(texts.CHANGE, lambda: again(studio, take))
                change.props["aria-label"] = change.props["title"] = texts.AGAIN
    return card


async def spelled_of(studio: Studio, take: KeptTake) -> dict[str, Any]:
    """What makes a take elsewhere, as `show_spelled` shows it."""
    values: dict[str, Any] = {"record": take.record, "model": take.model, "output": take.file}
    try:
        return await studio.helper.ask("export", values)
    except UserError as error:
        return {"command": "", "python": "", "script": "", "command_refused": str(error)}


def show_spelled(spelled: Mapping[str, Any]) -> None:
    """A command line, a script's file and Python, each to be copied."""
    for name, label in (("command", texts.COMMAND), ("script", texts.SCRIPT_FILE), ("python", texts.PYTHON)):
        if spelled.get(name):
            _code(label, spelled[name])
        elif refused := spelled.get(f"{name}_refused"):
            ui.label(f"{label}: {refused}").classes("muted")


async def show_request(studio: Studio, take: KeptTake) -> None:
    """Everything that made a take, its command line and its Python."""
    try:
        facts = _request_facts(take)
    except UserError as error:  # of another version
        say(str(error), bad=True)
        return
    spelled = await spelled_of(studio, take)
    with ui.dialog(value=True) as dialog, ui.card().classes("dialog wide"):
        with ui.element("table").classes("facts"), ui.element("tbody"):
            for name, value in facts:
                with ui.element("tr"):
                    with ui.element("th").props('scope="row"'):
                        ui.label(name)
                    with ui.element("td"):
                        ui.label(value)
        show_spelled(spelled)
        with ui.element("div").classes("line end"):
            button(texts.CLOSE, dialog.close)


def _request_facts(take: KeptTake) -> list[tuple[str, str]]:
    requests = requests_of(take.record)
    shown: list[tuple[str, str]] = []
    for number, request in enumerate(requests, 1):
        head = f"{texts.PART} {number}: " if len(requests) > 1 else ""
        shown += [(f"{head}{name}", value) for name, value in facts_of(request).items()]
    return shown


def _code(label: str, text: str) -> None:
    def copy() -> None:
        ui.clipboard.write(text)
        say(texts.COPIED)

    with ui.element("div").classes("line tight"):
        ui.label(label).classes("label grow")
        button(texts.COPY, copy, icon="content_copy").props["aria-label"] = f"{texts.COPY}: {label}"
    with ui.element("pre").classes("code").props('tabindex="0"'):
        ui.label(text)
