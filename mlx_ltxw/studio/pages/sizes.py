"""How large, how long, how many."""

from __future__ import annotations

from nicegui import ui

from mlx_ltxw.studio import texts
from mlx_ltxw.studio.pages.form import Form
from mlx_ltxw.studio.pages.parts import number_field, section, switch


def show_sizes(form: Form) -> None:
    """The section; only sizes that the model and this machine can make are offered."""
    draft, facts = form.draft, form.facts
    with section(texts.SIZE_HEADING, key="size"):
        with ui.element("div").classes("line"):
            own = texts.OWN_SIZE.format(width=facts.width, height=facts.height) if facts else texts.OWN
            sizes = {"": own}
            for width, height in facts.sizes if facts else ():
                if facts is None or (width, height) != (facts.width, facts.height):
                    sizes[f"{width}x{height}"] = f"{width} × {height}"
            now = f"{draft.width}x{draft.height}" if draft.width and draft.height else ""
            now = "" if facts and now == f"{facts.width}x{facts.height}" else now
            sizes.setdefault(now, now.replace("x", " × "))

            def resize(text: str) -> None:
                width, _, height = text.partition("x")
                form.set(width=int(width) if width else None, height=int(height) if height else None)

            size = ui.select(sizes, value=now, label=texts.SIZE, on_change=lambda event: resize(event.value))
            size.props("outlined dense options-dense stack-label").classes("size")
            number_field(
                texts.SECONDS, draft.seconds, lambda value: form.set(seconds=value),
                hint=f"{facts.seconds:.1f}" if facts else "",
            )  # fmt: skip
            number_field(
                texts.STEPS, draft.steps, lambda value: form.set(steps=value), whole=True,
                hint=str(facts.steps) if facts else "",
            )  # fmt: skip
            number_field(texts.SEED, draft.seed, lambda value: form.set(seed=value), hint=texts.ANY, whole=True)
            number_field(texts.CLIPS, draft.clips, lambda value: form.set(clips=value or 1), whole=True)
        switch(texts.SOUND_ALONE, draft.audio_only, lambda value: form.set(audio_only=value))
