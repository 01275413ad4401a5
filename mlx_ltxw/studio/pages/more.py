"""What is seldom changed: the model, the pipeline, guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import ui

from mlx_ltxw.studio import texts
from mlx_ltxw.studio.draft import GUIDANCE, Draft
from mlx_ltxw.studio.pages.form import Form, open_in_make
from mlx_ltxw.studio.pages.parts import button, number_field, switch, text_field


def show_model(form: Form) -> None:
    """The model; another one brings its own sizes and lines, so the page is built anew for it."""
    draft = form.draft
    names = {"model": draft.model, "text_encoder": draft.text_encoder}

    def put(name: str) -> Callable[[str], None]:
        return lambda value: names.__setitem__(name, value)

    def use() -> None:
        if (draft.model, draft.text_encoder) == (names["model"], names["text_encoder"]):
            return
        draft.model, draft.text_encoder = names["model"], names["text_encoder"]
        draft.width = draft.height = None
        open_in_make(form.studio, draft)

    with ui.element("div").classes("line"):
        for name, label, hint in (
            ("model", texts.MODEL, form.studio.model or texts.MODEL_HINT),
            ("text_encoder", texts.TEXT_ENCODER, texts.TEXT_ENCODER_HINT),
        ):
            field = text_field(label, names[name], put(name), hint=hint)
            field.on("blur", use)
            field.on("keydown.enter", use)
    for note in form.facts.notes if form.facts else ():
        ui.label(note).classes("muted")
    if form.fault is not None:
        ui.label(str(form.fault)).classes("fault").props('role="alert"')


def show_more(form: Form) -> None:
    """The section, folded up."""
    draft = form.draft

    def text(name: str, label: str, hint: str = "", lines: int = 1) -> Any:
        value = getattr(draft, name) or ""
        return text_field(label, value, lambda given: form.set(**{name: given or None}), hint=hint, lines=lines)

    def pick(name: str, label: str, options: dict[str, str]) -> None:
        value = getattr(draft, name) or ""
        field = ui.select(
            {**options, value: options.get(value, value)}, value=value, label=label,
            on_change=lambda event: form.set(**{name: event.value or None}),
        )  # fmt: skip
        field.props("outlined dense options-dense stack-label").classes("size")

    def put_switch(name: str) -> Callable[[bool], None]:
        return lambda value: form.set(**{name: value})

    with ui.expansion(texts.MORE).classes("more").props("dense"):
        show_model(form)
        with ui.element("div").classes("line"):
            pick("pipeline", texts.PIPELINE, texts.PIPELINES)
            upsamplers = form.facts.upsamplers if form.facts else ()
            pick("upsampler", texts.UPSAMPLER, {"": texts.OWN} | {name: name for name in upsamplers})
            pick("dtype", texts.DTYPE, texts.DTYPES)
            number_field(texts.MEMORY, draft.memory, lambda value: form.set(memory=value)).classes(add="wide")
        with ui.element("div").classes("line"):
            text("distilled_lora", texts.DISTILLED_LORA, texts.ADAPTER_HINT)
            text("register_at", texts.REGISTER_AT, texts.REGISTER_AT_HINT)
        text("negative_prompt", texts.NEGATIVE, texts.OWN, lines=2)
        for name, label in (("video_guidance", texts.VIDEO_GUIDANCE), ("audio_guidance", texts.AUDIO_GUIDANCE)):
            _guidance(form, name, label)
        with ui.element("div").classes("line"):
            for name, label in (
                ("fuse", texts.FUSE), ("allow_partial", texts.ALLOW_PARTIAL), ("soften_onset", texts.SOFTEN_ONSET),
                ("remove_offset", texts.REMOVE_OFFSET),
            ):  # fmt: skip
                switch(label, getattr(draft, name), put_switch(name))

        def clear() -> None:
            open_in_make(form.studio, Draft(model=draft.model, text_encoder=draft.text_encoder))

        button(texts.CLEAR, clear, icon="backspace")


def _guidance(form: Form, name: str, label: str) -> None:
    """Four numbers; what is left empty is the model's own, or that of the request that was opened."""
    changed: dict[str, float] = getattr(form.draft, name)
    base = form.draft.base.get(name) or {}
    own = getattr(form.facts, name) if form.facts else None

    def put(key: str) -> Callable[[float | None], None]:
        def change(value: float | None) -> None:
            if value is None:
                changed.pop(key, None)
            else:
                changed[key] = value
            form.changed()

        return change

    with ui.element("div").classes("line tight").props('role="group"') as group:
        group.props["aria-label"] = label
        ui.label(label).classes("label wide")
        for key in GUIDANCE:
            hint = base.get(key, getattr(own, key) if own else "")
            number_field(texts.GUIDANCE[key], changed.get(key), put(key), hint=f"{hint}")
