"""Small pieces that all sections are made of: labelled, usable by keyboard, and showing text as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from nicegui import ui

from mlx_ltxw.parsing import finite_number


@contextmanager
def section(title: str, *, key: str = "") -> Iterator[ui.element]:
    """A part of a page with a heading."""
    with ui.element("section").classes("section") as element:
        element.props["aria-label"] = title
        if key:
            element.props["data-section"] = key
        heading(title)
        yield element


def heading(title: str, level: int = 2) -> ui.element:
    """A heading."""
    with ui.element(f"h{level}") as element:
        ui.label(title)
    return element


def row(classes: str = "") -> ui.element:
    """Things beside each other, below each other where there is no room."""
    return ui.element("div").classes(f"line {classes}")


def choice(
    label: str, options: Mapping[Any, str], value: Any, change: Callable[[Any], None], *, bare: bool = False
) -> ui.toggle:
    """One of a few, all of them in sight; bare where they say for themselves what they are."""
    with ui.element("div").classes("choice").props('role="group"') as group:
        group.props["aria-label"] = label
        if not bare:
            ui.label(label).classes("label").props('aria-hidden="true"')
        return (
            ui.toggle(dict(options), value=value, on_change=lambda event: change(event.value))
            .props("no-caps unelevated toggle-color=primary")
            .classes("toggle")
        )


def text_field(
    label: str, value: str, change: Callable[[str], None], *, hint: str = "", lines: int = 1,
    offers: Sequence[str] = (),
) -> Any:  # fmt: skip
    """A text; one that has several lines grows with it, one of a single line may offer some."""
    made = ui.textarea if lines > 1 else ui.input
    field = made(label, value=value, on_change=lambda event: change(event.value or ""))
    field.props("outlined dense stack-label hide-bottom-space" + (f" autogrow rows={lines}" if lines > 1 else ""))
    if hint:
        field.props["placeholder"] = hint
    field.props["aria-label"] = label
    if offers:
        field.set_autocomplete(list(offers))
    return field.classes("grow")


def number_field(
    label: str, value: float | None, change: Callable[[float | None], None], *, hint: str = "", whole: bool = False
) -> ui.input:
    """A number, or nothing. What is no number is marked and not taken."""

    def take(event: Any) -> None:
        text = (event.value or "").strip().replace(",", ".")
        number = finite_number(text) if text else None
        wrong = bool(text) and (number is None or (whole and number != int(number)))
        field.props(f"error={str(wrong).lower()}")
        if not wrong:
            change(number if number is None or not whole else int(text) if text.lstrip("-").isdigit() else int(number))

    shown = "" if value is None else str(value) if whole else f"{value:g}"
    field = ui.input(label, value=shown, on_change=take)
    field.props("outlined dense stack-label hide-bottom-space no-error-icon").props('inputmode="decimal"')
    field.props["placeholder"] = hint
    field.props["aria-label"] = label
    return field.classes("number")


def button(label: str, press: Callable[[], Any], *, icon: str = "", kind: str = "quiet") -> ui.button:
    """A button with a word on it: `quiet`, or `main` for the one that matters."""
    look = "unelevated color=primary" if kind == "main" else "flat"
    made = ui.button(label, on_click=press).props(f"{look} no-caps" + (f" icon={icon}" if icon else ""))
    return made.classes(f"button-{kind}")


def icon_button(icon: str, label: str, press: Callable[[], Any]) -> ui.button:
    """A button with a sign on it; its words are for who hears the page, and for the pointer that rests on it."""
    made = ui.button(on_click=press).props(f"flat round dense icon={icon}")
    made.props["aria-label"] = label
    made.props["title"] = label
    return made


def switch(label: str, value: bool, change: Callable[[bool], None]) -> ui.switch:
    """Yes or no."""
    return ui.switch(label, value=value, on_change=lambda event: change(bool(event.value))).props("dense")


def say(text: str, *, bad: bool = False) -> None:
    """A line that comes and goes at the page's edge."""
    ui.notify(text, position="top", type="negative" if bad else "info", timeout=8000 if bad else 2500)
