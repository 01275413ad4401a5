"""Takes side by side in a page: what the browser is told of them, and the element that shows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nicegui.element import Element

from mlx_ltxw.media.spectrogram import colours
from mlx_ltxw.studio import texts_hear as texts
from mlx_ltxw.studio.analysis import DB_PER_LEVEL, Shown, matched_gains

MOST_TAKES = 6
MOST_SECONDS = 1200.0
"""Of all takes together: what a browser keeps decoded, 0.4 MB a second."""

LETTERS = "ABCDEF"


@dataclass(frozen=True)
class DeckTake:
    """One take of a deck.

    Attributes:
        id: Its number.
        title, about: Texts about it.
        video, poster: Addresses; None for sound alone.
        sound, picture: Addresses of what `analysis` kept: the sound, and the spectrogram's grey levels.
        shown: What was found of it.
        asked: Register that was asked for; None where nobody said.
        stars, note: The listener's.
        other_way: Says what the button does that turns the lock; empty for no such button.
    """

    id: int
    title: str
    about: str
    video: str | None
    poster: str | None
    sound: str
    picture: str
    shown: Shown
    asked: str | None
    stars: int = 0
    note: str = ""
    other_way: str = ""


def fits(seconds: Sequence[float]) -> bool:
    """Whether takes of these lengths fit into a deck: all sounds become as long as the longest."""
    return len(seconds) <= MOST_TAKES and len(seconds) * max(seconds, default=0.0) <= MOST_SECONDS


def deck_data(takes: Sequence[DeckTake], judged: bool = True) -> dict[str, Any]:
    """What `deck.js` is given, as JSON takes it."""
    figures = [take.shown.measured for take in takes]
    gains = matched_gains([one["lufs"] for one in figures], [one["true_peak"] for one in figures])
    values = [
        dataclasses.asdict(take) | {"letter": letter, "gain": round(gain, 2)}
        for take, letter, gain in zip(takes, LETTERS, gains, strict=False)
    ]
    return {
        "takes": values,
        "texts": texts.DECK,
        "colours": colours(np.linspace(0, 1, 256)).tolist(),
        "scale": DB_PER_LEVEL,
        "judged": judged,
    }


class Deck(Element, component="static/deck.js"):
    """The element.

    Args:
        takes: At least one; see `fits`.
        act: Gets what the listener does: `{"do": "stars", "take": 3, "value": 5}`.
        judged: Whether the takes have stars, notes, exports and can be deleted.
    """

    def __init__(self, takes: Sequence[DeckTake], act: Callable[[dict[str, Any]], object], judged: bool = True) -> None:
        super().__init__()
        self._props["data"] = deck_data(takes, judged)
        self.on("act", lambda event: act(event.args))

    def show_difference(self, found: dict[str, Any]) -> None:
        """Shows how far two pictures are from each other."""
        self.run_method("show_difference", found)
