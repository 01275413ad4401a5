"""What is said: a sentence of four fields, a free prompt, or a script's parts."""

from __future__ import annotations

from nicegui import ui

from mlx_ltxw.errors import UserError
from mlx_ltxw.prompts.registers import build_prompt, check_prompt
from mlx_ltxw.studio import texts
from mlx_ltxw.studio.draft import FREE, SCRIPT, SENTENCE
from mlx_ltxw.studio.pages.form import Form
from mlx_ltxw.studio.pages.parts import choice, section, text_field
from mlx_ltxw.studio.pages.script import show_script
from mlx_ltxw.studio.wording import worded


def show_words(form: Form) -> None:
    """The section, with the sentence and the hints that follow every key."""
    draft = form.draft
    with section(texts.WORDS, key="words"):

        def turn(mode: str) -> None:
            if mode == FREE and not draft.prompt.strip():
                draft.prompt = _sentence(form)[0]
            form.set(mode=mode)
            fields.refresh()

        choice(texts.MODE, texts.MODES, draft.mode, turn, bare=True)

        @ui.refreshable
        def fields() -> None:
            {SENTENCE: _sentence_fields, FREE: _free_field, SCRIPT: show_script}[draft.mode](form)

        fields()
        _hints(form)


def _sentence_fields(form: Form) -> None:
    draft = form.draft
    text_field(texts.SCENE, draft.scene, lambda value: form.set(scene=value), hint=texts.SCENE_HINT, lines=2)
    with ui.element("div").classes("line"):
        choice(texts.SPEAKER, texts.SPEAKERS, draft.speaker, lambda value: form.set(speaker=value))
        choice(texts.MANNER, texts.MANNERS, draft.manner, lambda value: form.set(manner=value))
    known = form.facts.lines if form.facts else ()  # of a small model
    text_field(texts.LINE, draft.line, lambda value: form.set(line=value), hint=texts.LINE_HINT, offers=known)
    with ui.element("figure").classes("sentence").props('aria-live="polite"') as figure:
        figure.props["aria-label"] = texts.SENTENCE
        shown = ui.label().classes("built")

    def show() -> None:
        sentence, fault = _sentence(form)
        shown.set_text(sentence or fault or texts.SENTENCE_EMPTY)
        shown.classes(add="" if sentence else "empty", remove="empty" if sentence else "")

    show()
    form.at_once(show)


def _free_field(form: Form) -> None:
    text_field(texts.PROMPT, form.draft.prompt, lambda value: form.set(prompt=value), hint=texts.PROMPT_HINT, lines=4)


def _sentence(form: Form) -> tuple[str, str]:
    """The prompt, or why there is none."""
    try:
        return form.draft.sentence(), ""
    except UserError as error:
        return "", str(error)


def _hints(form: Form) -> None:
    """What a prompt will do, told while it is written."""
    with ui.element("ul").classes("hints").props('aria-live="polite"') as listed:
        pass
    shown: list[str] = []

    def show() -> None:
        nonlocal shown
        found = hints_of(form)
        if found == shown:
            return
        shown = found
        listed.clear()
        with listed:
            for text in found:
                with ui.element("li"):
                    ui.label(text)

    show()
    form.at_once(show)


def hints_of(form: Form) -> list[str]:
    """The hints of the prompt, or of a script's parts."""
    draft = form.draft
    adapted = any(one.source.strip() for one in draft.adapters)
    usual = form.facts.seconds if form.facts else 5.0
    if draft.mode != SCRIPT and draft.audio is not None and draft.revoice is None:
        return []  # nothing of it is said
    if draft.mode != SCRIPT:
        prompt, _ = _sentence(form)
        found = check_prompt(prompt, draft.seconds or usual, adapted) if prompt else []
        return [worded(str(hint)) for hint in found]
    told = []
    for number, part in enumerate(draft.parts, 1):
        if not (part.scene.strip() and part.line.strip()):
            continue
        try:
            prompt = build_prompt(part.scene, part.speaker, part.manner, part.line)
        except UserError as error:
            told.append(f"{texts.PART} {number}: {error}")
            continue
        hints = check_prompt(prompt, part.seconds or draft.seconds or usual, adapted and part.manner != "normal")
        told += [f"{texts.PART} {number}: {worded(str(hint))}" for hint in hints]
    return told
