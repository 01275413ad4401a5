"""Which of the things a clip may be given go together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.keyframes import placed
from mlx_ltxw.pipeline.spans import WHAT, parse_span

if TYPE_CHECKING:
    from mlx_ltxw.pipeline.request import Settings


def check_given(settings: Settings) -> None:
    """Refuses what cannot be made of what is given.

    Raises:
        UserError: says what does not go together, or which value is none.
    """
    for one, other in _excluded(settings):
        raise UserError(f"{{field:{one}}} and {{field:{other}}} exclude each other.", "Leave one of them out.")
    placed(settings.images, settings.frames)
    _check_revoice(settings)
    _check_changes(settings)
    if settings.adapters and not settings.makes_sound:
        given = "audio" if settings.audio is not None else "retake_what=picture"
        hint = (
            "Add {field:revoice} to give it a new register, or leave {field:adapters} out."
            if settings.audio is not None
            else "Leave {field:retake_what} or {field:adapters} out."
        )
        raise UserError(f"With {{field:{given}}} there is no sound for an adapter to act on.", hint)


def _excluded(settings: Settings) -> list[tuple[str, str]]:
    s = settings
    pairs = {
        ("video", "audio_only"): s.video is not None and s.audio_only,
        ("images", "audio_only"): bool(s.images) and s.audio_only,
        ("images", "video"): bool(s.images) and s.video is not None,
        ("retake", "extend"): s.retake is not None and s.extend is not None,
        ("audio", "retake"): s.audio is not None and s.retake is not None,
        ("audio", "extend"): s.audio is not None and s.extend is not None,
        ("revoice", "retake"): s.revoice is not None and s.retake is not None,
        ("revoice", "extend"): s.revoice is not None and s.extend is not None,
    }
    return [pair for pair, both in pairs.items() if both]


def _check_revoice(settings: Settings) -> None:
    given, strength = settings.audio is not None, settings.revoice
    if strength is None:
        if given and (settings.video is not None or settings.audio_only):
            other = "video" if settings.video is not None else "audio_only"
            raise UserError(
                f"With {{field:audio}} and {{field:{other}}} nothing is left to make.",
                "Add {field:revoice} to make the sound again, or leave one of them out.",
            )
        return
    if not given and settings.video is None:
        raise UserError("{field:revoice} has no sound to make again.", "Add {field:audio} or {field:video}.")
    if not (math.isfinite(strength) and 0 < strength <= 1):
        raise UserError(f"{strength} is no strength for {{field:revoice}}.", "Give one above 0, up to 1.")


def _check_changes(settings: Settings) -> None:
    """Of a retake and an extension."""
    if settings.retake_what not in WHAT:
        raise UserError(
            f"'{settings.retake_what}' is nothing that {{field:retake_what}} knows.", f"Choose from {', '.join(WHAT)}."
        )
    for name in ("retake", "extend"):
        if getattr(settings, name) is not None and settings.video is None:
            raise UserError(f"{{field:{name}}} has no clip to change.", "Add {field:video}.")
    if settings.retake is not None:
        parse_span(settings.retake)
    elif settings.retake_what != "both":
        raise UserError("{field:retake_what} says of what, and not of when.", "Add {field:retake}.")
    if settings.extend is not None and not (math.isfinite(settings.extend) and settings.extend):
        raise UserError(f"{settings.extend} is no number of seconds.", "Give {field:extend} seconds; negative: before.")
