"""What is given: pictures, a sound or a clip that are dropped on the page, and what they are for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from nicegui import ui

from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.studio import texts
from mlx_ltxw.studio.draft import DraftImage, draft_of
from mlx_ltxw.studio.pages.form import Form, open_in_make
from mlx_ltxw.studio.pages.parts import button, choice, icon_button, number_field, say, section, text_field
from mlx_ltxw.studio.store import KeptUpload
from mlx_ltxw.studio.uploads import ENDINGS, upload_path
from mlx_ltxw.studio.wording import worded_error

_REVOICE = 0.7


def show_given(form: Form) -> None:
    """The section."""
    with section(texts.GIVEN, key="given"):

        @ui.refreshable
        def listed() -> None:
            draft = form.draft
            for number, image in enumerate(draft.images, 1):
                _image(form, image, number, listed.refresh)
            if draft.audio is not None:
                _sound(form, listed.refresh)
            if draft.video is not None:
                _clip(form, listed.refresh)

        listed()
        drop_zone(lambda upload: _take(form, upload, listed.refresh), form)


def drop_zone(taken: Any, form: Form) -> None:
    """Where files are dropped, or chosen by the button; `studio.js` sends them to `/upload`."""
    with ui.element("div").classes("drop").props("data-drop") as zone:
        ui.label(texts.DROP)
        ui.label(texts.DROP_MADE).classes("muted")
        with ui.element("label").classes("choose"):
            ui.label(texts.CHOOSE)
            chooser = ui.element("input").props(f'type="file" accept="{",".join(ENDINGS)}"')
            chooser.props["aria-label"] = texts.CHOOSE
        state = ui.label().classes("muted").props('role="status"')

    async def uploaded(event: Any) -> None:
        state.set_text("")
        detail = event.args.get("detail") if isinstance(event.args, dict) else None
        number = detail.get("id") if isinstance(detail, dict) else None
        upload = form.studio.store.upload(number) if isinstance(number, int) else None
        if upload is None:
            say(str(detail.get("error", ""))[:500] if isinstance(detail, dict) else "", bad=True)
            return
        try:
            await taken(upload)
        except UserError as error:
            say(str(worded_error(error)), bad=True)

    zone.on("uploaded", uploaded, args=["detail"])

    def uploading(event: Any) -> None:
        state.set_text(texts.UPLOADING.format(name=str(event.args["detail"])[:255]))

    zone.on("uploading", uploading, args=["detail"])


async def _take(form: Form, upload: KeptUpload, refresh: Any) -> None:
    """A file has come: one of ours may bring its request along."""
    studio = form.studio
    if upload.kind != "image":
        try:
            found = await studio.helper.ask("record", {"file": upload.file})
        except UserError:
            found = None
        if found is not None:
            _offer(form, upload, found, refresh)
            return
    _use(form, upload, refresh)


def _use(form: Form, upload: KeptUpload, refresh: Any) -> None:
    """Takes a file as what it is."""
    draft, path = form.draft, str(upload_path(form.studio, upload.id))
    if upload.kind == "image":
        frame = "0" if not draft.images else "last"
        draft.images.append(DraftImage(path, upload.name, frame))
    elif upload.kind == "sound":
        draft.audio, draft.video, draft.given_name = path, None, upload.name
    else:
        draft.audio, draft.video, draft.given_name = None, path, upload.name
    form.changed()
    refresh()


def _offer(form: Form, upload: KeptUpload, found: dict[str, Any], refresh: Any) -> None:
    """Asks what a clip of ours is dropped for."""
    with ui.dialog(value=True) as dialog, ui.card().classes("dialog"):
        ui.label(texts.MADE_HERE)
        ui.label(upload.name).classes("muted")
        if found["wanted"]:
            ui.label(texts.LEFT_OUT.format(names=", ".join(found["wanted"]))).classes("muted")

        def open_request() -> None:
            dialog.close()
            requests = [Request.from_dict(one) for one in found["requests"]]
            open_in_make(form.studio, draft_of(requests, None))

        def use() -> None:
            dialog.close()
            _use(form, upload, refresh)

        with ui.element("div").classes("line end"):
            button(texts.USE_AS_CLIP, use)
            button(texts.OPEN_REQUEST, open_request, kind="main")


def _image(form: Form, image: DraftImage, number: int, refresh: Any) -> None:
    put, remove = partial(form.putting, image), form.removing(form.draft.images, image, refresh)
    with ui.element("div").classes("line given"):
        ui.label(f"{texts.GIVEN_IMAGE}: {image.name or Path(image.file).name}").classes("grow")
        text_field(texts.AT_FRAME, image.frame, put("frame")).classes(add="number")
        text_field(texts.IMAGE_STRENGTH, image.strength, put("strength")).classes(add="number")
        icon_button("close", f"{texts.REMOVE_GIVEN}: {texts.GIVEN_IMAGE} {number}", remove)


def _sound(form: Form, refresh: Any) -> None:
    draft = form.draft

    def use(what: str) -> None:
        form.set(revoice=_REVOICE if what == "revoice" else None)
        refresh()

    _given_head(form, texts.GIVEN_SOUND, {"audio": None, "revoice": None}, refresh)
    choice(texts.USE, texts.SOUND_USES, "keep" if draft.revoice is None else "revoice", use)
    if draft.revoice is not None:
        number_field(texts.REVOICE, draft.revoice, lambda value: form.set(revoice=value or _REVOICE))


def _clip(form: Form, refresh: Any) -> None:
    draft = form.draft
    nothing: dict[str, Any] = {"revoice": None, "retake": None, "extend": None}
    begin: dict[str, dict[str, Any]] = {
        "voice": {}, "revoice": {"revoice": _REVOICE}, "retake": {"retake": "0-1"}, "extend": {"extend": 1.0},
    }  # fmt: skip
    now = next((name for name in nothing if getattr(draft, name) is not None), "voice")

    def use(what: str) -> None:
        form.set(**{**nothing, **begin[what]})
        refresh()

    _given_head(form, texts.GIVEN_CLIP, {"video": None, **nothing}, refresh)
    choice(texts.USE, texts.CLIP_USES, now, use)
    if now == "revoice":
        number_field(texts.REVOICE, draft.revoice, lambda value: form.set(revoice=value or _REVOICE))
    elif now == "retake":
        with ui.element("div").classes("line"):
            text_field(texts.RETAKE, draft.retake or "", lambda value: form.set(retake=value or "0-1"))
            choice(texts.RETAKE_WHAT, texts.RETAKES, draft.retake_what, lambda value: form.set(retake_what=value))
    elif now == "extend":
        number_field(texts.EXTEND, draft.extend, lambda value: form.set(extend=value or 1.0))


def _given_head(form: Form, kind: str, gone: dict[str, Any], refresh: Any) -> None:
    def remove() -> None:
        form.set(**gone, given_name="")
        refresh()

    with ui.element("div").classes("line given"):
        ui.label(f"{kind}: {form.draft.given_name}").classes("grow")
        icon_button("close", f"{texts.REMOVE_GIVEN}: {kind}", remove)
