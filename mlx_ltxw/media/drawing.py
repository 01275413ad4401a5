"""Panels, axes and scales of spectrogram pictures, by Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlx_ltxw.media.audio import as_waveform
from mlx_ltxw.media.sound import slices
from mlx_ltxw.media.spectrogram import (
    RANGE_DB,
    ROWS,
    Spectrogram,
    colours,
    columns_of,
    decibels,
    mel_edges,
    top_of,
    write_png,
)

_LEFT, _RIGHT, _ABOVE, _BELOW = 64, 86, 34, 46  # margins around a panel
_BAR = 16  # width of the colour scale
_BACK, _INK, _FAINT = (255, 255, 255), (40, 40, 40), (150, 150, 150)
_LETTERS = {"n": (44, 110, 180), "s": (196, 120, 30), "w": (150, 60, 150), "·": (150, 150, 150)}
_TICKS_HZ = (100, 250, 500, 1000, 2000, 4000, 8000, 16000)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_STEPS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


def draw_spectrograms(pictures: Sequence[Spectrogram]) -> np.ndarray:
    """Pictures below each other, (H, W, 3) uint8; their colours say the same, and the loudest spot of all is on top."""
    loudest = max(float(picture.level.max()) for picture in pictures)
    top = 5 * np.ceil(max(loudest, -190.0) / 5)
    width = _LEFT + max(picture.level.shape[1] for picture in pictures) + _RIGHT
    height = _ABOVE + ROWS + _BELOW
    page = Image.new("RGB", (width, height * len(pictures)), _BACK)
    for row, picture in enumerate(pictures):
        _panel(page, picture, row * height + _ABOVE, top)
    return np.asarray(page)


def write_spectrogram(
    path: Path | str,
    samples: np.ndarray | Sequence[np.ndarray],
    rate: int,
    *,
    titles: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a png of one clip, or of several below each other on common scales of time and level.

    Args:
        samples: (N,) or (N, 2) each, in [-1, 1].
        titles: One a clip, or none.
        metadata: Stored as JSON in the png (`metadata.read_metadata`).

    Raises:
        UserError: `path` cannot be written, or a sample is not finite.
    """
    clips = [as_waveform(clip) for clip in ([samples] if isinstance(samples, np.ndarray) else samples)]
    longest, top = max(len(clip) for clip in clips) / rate, top_of(rate)
    names = [*titles, *[""] * (len(clips) - len(titles))]
    levels = [decibels(slices(clip, rate), rate, columns_of(longest), longest, top) for clip in clips]
    write_pictures(
        path, [Spectrogram(level, top, longest, name) for level, name in zip(levels, names, strict=True)], metadata
    )


def write_pictures(
    path: Path | str, pictures: Sequence[Spectrogram], metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes pictures below each other on one scale of level, whole or not at all.

    Raises:
        UserError: `path` cannot be written.
    """
    write_png(path, draw_spectrograms(pictures), metadata)


def _panel(page: Image.Image, picture: Spectrogram, above: int, top: float) -> None:
    pen, small = ImageDraw.Draw(page), ImageFont.load_default(12)
    columns = picture.level.shape[1]
    page.paste(Image.fromarray(colours(1 + (picture.level - top) / RANGE_DB)), (_LEFT, above))
    pen.rectangle((_LEFT - 1, above - 1, _LEFT + columns, above + ROWS), outline=_INK)
    pen.text((_LEFT, above - 18), picture.title, _INK, ImageFont.load_default(13), anchor="lm")
    _frequencies(pen, small, picture.top, above)
    _seconds(pen, small, picture, above)
    _scale(page, pen, small, _LEFT + columns + 14, above, top)


def _frequencies(pen: ImageDraw.ImageDraw, font: Font, top: float, above: int) -> None:
    edges = mel_edges(top)
    for hertz in _TICKS_HZ:
        if hertz <= top * 1.001:
            row = above + ROWS - round(float(np.interp(hertz, edges, np.arange(ROWS + 1))))
            pen.line((_LEFT - 6, row, _LEFT - 2, row), _INK)
            pen.text((_LEFT - 9, row), f"{hertz / 1000:g}", _INK, font, anchor="rm")
    pen.text((6, above + ROWS // 2), "kHz", _INK, font, anchor="lm")


def _seconds(pen: ImageDraw.ImageDraw, font: Font, picture: Spectrogram, above: int) -> None:
    columns, seconds = picture.level.shape[1], picture.seconds
    a_second, bottom = columns / seconds, above + ROWS
    step = next((s for s in _STEPS if seconds / s <= 12), 7200)
    for tick in range(int(seconds / step + 1e-6) + 1):
        column = _LEFT + round(tick * step * a_second)
        pen.line((column, bottom + 1, column, bottom + 5), _INK)
        pen.text((column, bottom + 7), f"{tick * step:g}", _INK, font, anchor="mt")
    pen.text((_LEFT + columns + 6, bottom + 7), "s", _INK, font, anchor="lt")
    if a_second >= 9:
        for second, letter in enumerate(picture.letters):
            if (second + 0.5) < seconds:
                spot = (_LEFT + (second + 0.5) * a_second, bottom + 31)
                pen.text(spot, letter, _LETTERS.get(letter, _INK), font, anchor="mm")


def _scale(page: Image.Image, pen: ImageDraw.ImageDraw, font: Font, left: int, above: int, top: float) -> None:
    """The colour bar, from the highest level down."""
    page.paste(Image.fromarray(np.repeat(colours(np.linspace(1, 0, ROWS))[:, None], _BAR, axis=1)), (left, above))
    pen.rectangle((left - 1, above - 1, left + _BAR, above + ROWS), outline=_INK)
    for below in range(0, int(RANGE_DB) + 1, 20):
        row = above + round(below / RANGE_DB * (ROWS - 1))
        pen.line((left + _BAR + 1, row, left + _BAR + 4, row), _INK)
        pen.text((left + _BAR + 7, row), f"{top - below:.0f}", _INK, font, anchor="lm")
    pen.text((left - 6, above - 18), "dBFS / Hz", _INK, font, anchor="lm")
