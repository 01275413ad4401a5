"""The page `Hear`: takes side by side, played in step, judged, exported, deleted with undo."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nicegui import background_tasks, ui

from mlx_ltxw.errors import UserError
from mlx_ltxw.prompts.registers import parse
from mlx_ltxw.studio import texts_hear as texts
from mlx_ltxw.studio.analysis import Shown
from mlx_ltxw.studio.deck import MOST_SECONDS, MOST_TAKES, Deck, DeckTake, fits
from mlx_ltxw.studio.heard import kept_of
from mlx_ltxw.studio.hub import News
from mlx_ltxw.studio.media import take_path, take_url
from mlx_ltxw.studio.pages.counterpart import make_other_way, other_way
from mlx_ltxw.studio.pages.export import open_export
from mlx_ltxw.studio.pages.frame import follow
from mlx_ltxw.studio.pages.parts import button, say
from mlx_ltxw.studio.pages.takes import again
from mlx_ltxw.studio.shown_media import shown_of, take_shown_url
from mlx_ltxw.studio.state import Studio
from mlx_ltxw.studio.store import KeptTake
from mlx_ltxw.studio.wording import worded_error

LISTED = 30


async def show(studio: Studio, query: Mapping[str, str]) -> None:
    """Builds the page for `?takes=3,7`; without, for the newest job's takes."""
    ui.add_head_html('<link rel="stylesheet" href="/static/deck.css">')
    page = HearPage(studio, _numbers(query.get("takes", "")) or _newest(studio))
    await page.build()


class HearPage:
    """One open page.

    Attributes:
        chosen: Numbers of the takes side by side, in their order.
        deck: Shows them; None while there is none.
    """

    def __init__(self, studio: Studio, chosen: list[int]) -> None:
        self.studio = studio
        self.chosen = chosen[:MOST_TAKES]
        self.deck: Deck | None = None
        self._awaited: set[int] = set()
        self._bring_back: Callable[[], Awaitable[None]] | None = None

    async def build(self) -> None:
        """Lays the page out; takes that were never listened to are measured once it is open."""
        self.undo = ui.element("div").classes("line tight deck-undo").props('role="status"')
        self.space = ui.element("div")
        Picker(self.studio, self.chosen)
        follow(self.studio, self._hear)
        takes = self._takes()
        with self.space:
            if not takes:
                ui.label(texts.NOTHING_CHOSEN)
                return
            if all(self._known(take) for take in takes):
                await self.fill()
                return
            ui.label(texts.LISTENING)
        ui.timer(0.01, self.fill, once=True)

    async def fill(self) -> None:
        """Puts the chosen takes side by side."""
        found: list[DeckTake] = []
        faults: list[str] = []
        for take in self._takes():
            try:
                found.append(deck_take(take, await shown_of(self.studio, take_path(self.studio, take))))
            except UserError as error:
                faults.append(str(error))
        self.space.clear()
        with self.space:
            for fault in faults:
                ui.label(fault).classes("fault")
            if not found:
                ui.label(texts.NOTHING_CHOSEN)
            elif not fits([take.shown.seconds for take in found]):
                ui.label(texts.TOO_MANY.format(count=MOST_TAKES, minutes=round(MOST_SECONDS / 60)))
            else:
                self.deck = Deck(found, self.act)

    async def act(self, what: dict[str, Any]) -> None:
        """What the listener did; it comes from a browser, so it is looked over."""
        do, number = what.get("do"), what.get("take")
        if do == "difference":
            await self._compare(what.get("one"), what.get("other"))
            return
        if do == "undo":
            if self._bring_back is not None:
                await self._bring_back()
            return
        take = self.studio.store.take(number) if isinstance(number, int) and number in self.chosen else None
        if take is None:
            return
        value = what.get("value")
        if do == "stars" and isinstance(value, int):
            self.studio.store.update_take(take.id, stars=value)
            self.studio.hub.tell("changed", take=take.id)
        elif do == "note" and isinstance(value, str):
            self.studio.store.update_take(take.id, note=value)
            self.studio.hub.tell("changed", take=take.id)
        elif do == "export":
            await open_export(self.studio, take)
        elif do == "again":
            again(self.studio, take)
        elif do == "other":
            await self._make_other_way(take)
        elif do == "aside":
            await self._leave_out(take.id)
        elif do == "delete":
            self.studio.store.delete_take(take.id)
            self.studio.hub.tell("deleted", take=take.id)
            self._offer_undo(take, self.chosen.index(take.id))
            await self._leave_out(take.id)

    async def _make_other_way(self, take: KeptTake) -> None:
        try:
            self._awaited.add(await make_other_way(self.studio, take))
        except UserError as error:
            say(str(worded_error(error)), bad=True)
            return
        say(texts.MAKING_OTHER.format(way=other_way(take)))

    def _hear(self, news: News) -> None:
        """Puts what was asked for here beside the others, or says why there is none."""
        if news.get("job") not in self._awaited:
            return
        if news["event"] == "failed":
            say(str(news.get("message", "")), bad=True)
        elif news["event"] == "written" and len(self.chosen) < MOST_TAKES:
            self.chosen.append(int(news["take"]))
            _keep_address(self.chosen)
            background_tasks.create(self.fill())

    async def _leave_out(self, number: int) -> None:
        self.chosen.remove(number)
        _keep_address(self.chosen)
        await self.fill()

    def _offer_undo(self, take: KeptTake, place: int) -> None:
        self.undo.clear()

        async def bring_back() -> None:
            self._bring_back = None
            self.studio.store.restore_take(take.id)
            self.studio.hub.tell("restored", take=take.id)
            self.chosen.insert(min(place, len(self.chosen)), take.id)
            _keep_address(self.chosen)
            self.undo.clear()
            with self.undo:
                ui.label(texts.RESTORED.format(title=title_of(take)))
            await self.fill()

        self._bring_back = bring_back
        with self.undo:
            ui.label(texts.DELETED.format(title=title_of(take)))
            button(texts.UNDO, bring_back, icon="undo").props('aria-keyshortcuts="Control+Z"')

    async def _compare(self, one: Any, other: Any) -> None:
        takes = [self.studio.store.take(number) for number in (one, other) if number in self.chosen]
        pictured = [take for take in takes if take is not None and take.has_picture]
        if len(pictured) != 2 or self.deck is None:
            return
        paths = {name: str(take_path(self.studio, take)) for name, take in zip(("one", "other"), pictured, strict=True)}
        try:
            found = await self.studio.helper.ask("compare_pictures", paths)
        except UserError as error:
            found = {"text": str(error), "mean": []}
        self.deck.show_difference({"one": one, "other": other, **found})

    def _takes(self) -> list[KeptTake]:
        found = [self.studio.store.take(number) for number in self.chosen]
        return [take for take in found if take is not None and take.deleted_at is None]

    def _known(self, take: KeptTake) -> bool:
        try:
            return kept_of(self.studio.folder, take_path(self.studio, take)) is not None
        except UserError:
            return True  # there is nothing to wait for


class Picker:
    """The newest takes, to be ticked.

    Args:
        studio: It has them.
        chosen: Those that are ticked at first.
    """

    def __init__(self, studio: Studio, chosen: list[int]) -> None:
        self.studio = studio
        self.ticked = dict.fromkeys(chosen)
        with ui.expansion(texts.ADD, value=not chosen).classes("more"):
            ui.label(texts.HOW_TO_CHOOSE).classes("muted")
            with ui.element("ul").classes("history"):
                for take in studio.store.takes(limit=LISTED):
                    self._row(take)
            self.button = button(texts.HEAR_CHOSEN, self._open, kind="main")

    def _row(self, take: KeptTake) -> None:
        with ui.element("li"):
            ui.checkbox(
                title_of(take), value=take.id in self.ticked, on_change=lambda event: self._tick(take.id, event.value)
            )
            ui.label(about_take(take)).classes("muted")

    def _tick(self, number: int, on: bool) -> None:
        if on:
            self.ticked[number] = None
        else:
            self.ticked.pop(number, None)
        full = len(self.ticked) > MOST_TAKES
        self.button.set_enabled(bool(self.ticked) and not full)
        if full:
            say(texts.TOO_MANY.format(count=MOST_TAKES, minutes=round(MOST_SECONDS / 60)))

    def _open(self) -> None:
        ui.navigate.to("/hear?takes=" + ",".join(map(str, self.ticked)))


def deck_take(take: KeptTake, shown: Shown) -> DeckTake:
    """A take as the deck has it."""
    video, poster = (take_url(take.id), take_url(take.id, "png")) if take.has_picture else (None, None)
    return DeckTake(
        take.id, title_of(take), about_take(take), video, poster, take_shown_url(take.id, "sound.flac"),
        take_shown_url(take.id, "levels.png"), shown, take.asked_register, take.stars, take.note, other_way(take),
    )  # fmt: skip


def title_of(take: KeptTake) -> str:
    """What tells it from others at a glance: who says what, and how."""
    turns = parse(take.prompt).turns
    if not turns:
        return take.prompt
    who = ", ".join(filter(None, (turns[0].speaker, turns[0].manner)))
    return f"{who}: “{' … '.join(turn.line for turn in turns)}”"


def about_take(take: KeptTake) -> str:
    """The rest of what it was made of."""
    record = take.record
    scene = parse(take.prompt).scene if parse(take.prompt).turns else ""
    number = f"take {take.number}" if take.number else ""
    adapters = record.get("adapters") or []
    names = ", ".join(str(one).rpartition("/")[2] for one in adapters) if isinstance(adapters, list) else ""
    lock = ("lock" if record.get("lock_video", True) else "lips follow") if names and take.has_picture else ""
    facts = [f"#{take.id}", scene, f"seed {take.seed}", number, names, lock, f"{take.seconds:.2f} s"]
    return " · ".join(fact for fact in facts if fact)


def _numbers(text: str) -> list[int]:
    found = [int(one) for one in text.split(",") if one.isascii() and one.isdigit() and len(one) < 16]
    return list(dict.fromkeys(found))


def _newest(studio: Studio) -> list[int]:
    """Of the job that was made last, all takes, in the order of their making."""
    newest = studio.store.takes(limit=1)
    if not newest:
        return []
    if newest[0].job is None:
        return [newest[0].id]
    return [take.id for take in reversed(studio.store.takes(job=newest[0].job, limit=MOST_TAKES))]


def _keep_address(chosen: list[int]) -> None:
    """So that a reload shows the same."""
    ui.navigate.history.replace("/hear?takes=" + ",".join(map(str, chosen)))
