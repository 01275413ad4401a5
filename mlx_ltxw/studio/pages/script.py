"""The script editor: parts in a table, each with a take of its own."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from nicegui import ui

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import texts
from mlx_ltxw.studio.asked import MOST_PARTS
from mlx_ltxw.studio.draft import SENTENCE, Draft, DraftPart
from mlx_ltxw.studio.media import take_url
from mlx_ltxw.studio.pages.form import Form
from mlx_ltxw.studio.pages.frame import follow
from mlx_ltxw.studio.pages.parts import button, icon_button, number_field, say, text_field
from mlx_ltxw.studio.wording import worded_error


def show_script(form: Form) -> None:
    """The parts; a new one takes the scene of the one before it."""
    trying: dict[int, DraftPart] = {}

    @ui.refreshable
    def table() -> None:
        with ui.element("ol").classes("script"):
            for number, part in enumerate(form.draft.parts):
                with ui.element("li").classes("part"):
                    _row(form, number, part, table.refresh, trying)

    table()

    def add() -> None:
        parts = form.draft.parts
        if len(parts) >= MOST_PARTS:
            say(f"{MOST_PARTS} parts are as many as a script may have.", bad=True)
            return
        last = parts[-1] if parts else DraftPart()
        parts.append(DraftPart(last.scene, last.speaker, last.manner))
        form.changed()
        table.refresh()

    button(texts.ADD_PART, add, icon="add")

    def hear(news: dict[str, Any]) -> None:
        """A part's own take is made: its seed is the part's from now on."""
        part = trying.get(news.get("job", 0))
        if part is None or news["event"] != "written":
            return
        take = form.studio.store.take(news["take"])
        if take is not None:
            part.take, part.seed = take.id, take.seed
            form.changed()
            table.refresh()

    follow(form.studio, hear)


def _row(form: Form, number: int, part: DraftPart, refresh: Any, trying: dict[int, DraftPart]) -> None:
    name = f"{texts.PART} {number + 1}"

    def move(by: int) -> None:
        parts = form.draft.parts
        other = number + by
        if 0 <= other < len(parts):
            parts[number], parts[other] = parts[other], parts[number]
            form.changed()
            refresh()

    put, remove = partial(form.putting, part), form.removing(form.draft.parts, part, refresh)
    with ui.element("div").classes("part-head"):
        ui.label(str(number + 1)).classes("part-number")
        text_field(f"{texts.SCENE}", part.scene, put("scene")).props["aria-label"] = f"{name}, {texts.SCENE}"
        icon_button("arrow_upward", f"{texts.PART_UP} {number + 1}", lambda: move(-1))
        icon_button("arrow_downward", f"{texts.PART_DOWN} {number + 1}", lambda: move(1))
        icon_button("close", f"{texts.REMOVE_PART} {number + 1}", remove)
    with ui.element("div").classes("line tight"):
        for field, options in (("speaker", texts.SPEAKERS), ("manner", texts.MANNERS)):
            chosen = ui.select(options, value=getattr(part, field), on_change=lambda e, f=field: put(f)(e.value))
            chosen.props("outlined dense options-dense").props["aria-label"] = f"{name}, {field}"
        known = form.facts.lines if form.facts else ()
        line = text_field(texts.LINE, part.line, put("line"), offers=known)
        line.props["aria-label"] = f"{name}, {texts.LINE}"
    with ui.element("div").classes("line tight"):
        usual = f"{form.draft.seconds or (form.facts.seconds if form.facts else 5):.1f}"
        number_field(texts.PART_SECONDS, part.seconds, put("seconds"), hint=usual)
        number_field(texts.PART_SEED, part.seed, put("seed"), hint=texts.ANY, whole=True)
        button(texts.TRY_PART, lambda: _try(form, part, trying), icon="play_arrow").props["aria-label"] = (
            f"{texts.TRY_PART} {number + 1}"
        )
        if part.take is not None:
            player = ui.element("audio").props(f'controls preload="none" src="{take_url(part.take, "wav")}"')
            player.props["aria-label"] = f"{texts.TAKE_OF_PART} {number + 1}"


async def _try(form: Form, part: DraftPart, trying: dict[int, DraftPart]) -> None:
    """Makes a part alone, as the script would."""
    draft = Draft.read(form.draft.as_dict())
    draft = dataclasses.replace(
        draft, mode=SENTENCE, scene=part.scene, speaker=part.speaker, manner=part.manner, line=part.line,
        seconds=part.seconds or draft.seconds, seed=part.seed, clips=1,
        adapters=[] if part.manner == "normal" else draft.adapters,
    )  # fmt: skip
    studio = form.studio
    try:
        assert form.facts is not None
        answer = await studio.helper.ask("plan", draft.asked(form.facts, studio.model).as_dict())
        trying[studio.queue.add("clip", part.line, answer["asked"], answer.get("work"))] = part
    except UserError as error:
        say(str(worded_error(error)), bad=True)
    else:
        say(texts.QUEUED)
