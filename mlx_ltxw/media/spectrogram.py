"""Spectrogram pictures: mel-spaced frequency up, seconds to the right, written as png without a plotting library."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_ltxw.files import write_bytes
from mlx_ltxw.media.audio import as_waveform
from mlx_ltxw.media.metadata import PNG_SIGNATURE, png_chunk, png_text_chunk, to_text

_WINDOW = 0.040  # seconds: shows a low man's harmonics and still single syllables
_TOP_HZ = 16000.0
_RANGE_DB = 80.0
_ROWS = 256
_LEFT, _BELOW, _ABOVE = 40, 20, 10  # margins around a panel, for its labels
_INK = 190  # grey of the labels
_TICKS_HZ = {100: "100", 250: "250", 500: "500", 1000: "1k", 2000: "2k", 4000: "4k", 8000: "8k", 16000: "16k"}
_GLYPHS = {  # five rows of three dots, an octal digit a row
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757", "7": "71122",
    "8": "75757", "9": "75717", ".": "00002", "k": "45655",
}  # fmt: skip


def write_spectrogram(
    path: Path | str,
    samples: np.ndarray | Sequence[np.ndarray],
    rate: int,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a png of one clip, or of several below each other on common scales of time and level.

    Args:
        samples: (N,) or (N, 2) each, in [-1, 1].
        metadata: Stored as JSON in the png (`metadata.read_metadata`).

    Raises:
        UserError: `path` cannot be written, or a sample is not finite.
    """
    clips = [samples] if isinstance(samples, np.ndarray) else list(samples)
    longest = max(len(clip) for clip in clips) / rate
    columns = int(np.clip(200 * longest, 400, 1600))
    levels = [decibels(as_waveform(clip), rate, columns, longest) for clip in clips]
    top = max(float(level.max()) for level in levels)
    panels = [_panel(1 + (level - top) / _RANGE_DB, rate, longest) for level in levels]
    write_png(path, np.concatenate(panels), metadata)


def write_png(path: Path | str, picture: np.ndarray, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes (H, W, 3) uint8, whole or not at all.

    Raises:
        UserError: `path` cannot be written.
    """
    height, width, _ = picture.shape
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    rows = np.pad(picture.reshape(height, -1), ((0, 0), (1, 0)))  # each row begins with its filter: none
    text = b"" if metadata is None else png_text_chunk(to_text(metadata))
    chunks = [
        png_chunk(b"IHDR", size + bytes((8, 2, 0, 0, 0))),  # 8 bits, RGB
        text,
        png_chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)),
        png_chunk(b"IEND", b""),
    ]
    write_bytes(path, PNG_SIGNATURE + b"".join(chunks))


def decibels(samples: np.ndarray, rate: int, columns: int, seconds: float) -> np.ndarray:
    """Power density of (N, C) in dB, the channels' mean -> (256, columns), the highest of 256 mel bands first."""
    size = round(_WINDOW * rate)
    starts = ((np.arange(columns) + 0.5) * seconds * rate / columns).astype(int)
    mono = np.pad(samples.mean(axis=1), (size // 2, size + int(seconds * rate)))
    windows = np.lib.stride_tricks.sliding_window_view(mono, size)[starts] * np.hanning(size)
    spectrum = np.fft.rfft(windows, 2 * size)
    power = spectrum.real**2 + spectrum.imag**2
    # the integral of the power up to each band's edges, which may lie between two bins or span many
    total = np.pad(np.cumsum(power, axis=1), ((0, 0), (1, 0)))
    edge = mel_edges(rate) / rate * 2 * size + 0.5
    below = edge.astype(int)
    upto = total[:, below] + (edge - below) * (total[:, below + 1] - total[:, below])
    density = np.diff(upto, axis=1) / np.diff(edge) / size
    return 10 * np.log10(density.T[::-1] + 1e-12)


def mel_edges(rate: int) -> np.ndarray:
    """(257,) Hz from 0 to 16 kHz (or 98 % of what the rate carries), equally far apart in mel (O'Shaughnessy 1987)."""
    top = 2595 * np.log10(1 + min(_TOP_HZ, 0.49 * rate) / 700)
    return 700 * (10 ** (np.linspace(0, top, _ROWS + 1) / 2595) - 1)


def colours(value: np.ndarray) -> np.ndarray:
    """[0, 1] -> (..., 3) uint8: black, purple, orange, pale yellow in even steps of CIELAB lightness."""
    ramp = np.linspace(0, 1, 256)
    chroma, hue = 62 * np.sin(np.pi * ramp), np.radians(-70 + 165 * ramp)
    y = (2 + 95 * ramp + 16) / 116
    xyz = np.stack([y + chroma * np.cos(hue) / 500, y, y - chroma * np.sin(hue) / 200], -1)
    xyz = np.where(xyz > 6 / 29, xyz**3, (xyz - 4 / 29) * 108 / 841) * (0.9505, 1.0, 1.089)  # D65 white
    linear = xyz @ np.array([[3.2406, -0.9689, 0.0557], [-1.5372, 1.8758, -0.2040], [-0.4986, 0.0415, 1.0570]])
    linear = linear.clip(0, 1)
    table = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return np.round(255 * table).astype(np.uint8)[np.round(255 * value.clip(0, 1)).astype(int)]


def _panel(value: np.ndarray, rate: int, seconds: float) -> np.ndarray:
    """(256, columns) in [0, 1] -> the picture with its labels, (H, W, 3) uint8."""
    rows, columns = value.shape
    picture = np.zeros((_ABOVE + rows + _BELOW, _LEFT + columns + _ABOVE, 3), np.uint8)
    picture[_ABOVE : _ABOVE + rows, _LEFT : _LEFT + columns] = colours(value)
    edges = mel_edges(rate)
    for hertz, text in _TICKS_HZ.items():
        if hertz <= edges[-1] + 1:
            row = _ABOVE + rows - round(float(np.interp(hertz, edges, np.arange(rows + 1))))
            picture[row, _LEFT - 4 : _LEFT] = _INK
            _write(picture, text, row - 5, _LEFT - 6 - 8 * len(text))
    step = next((s for s in (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60) if seconds / s <= 12), 300)
    for tick in range(int(seconds / step) + 1):
        column, text = _LEFT + int(tick * step / seconds * (columns - 1)), f"{tick * step:g}"
        picture[_ABOVE + rows : _ABOVE + rows + 4, column] = _INK
        _write(picture, text, _ABOVE + rows + 7, column - 4 * len(text))
    return picture


def _write(picture: np.ndarray, text: str, row: int, column: int) -> None:
    """Writes digits with their upper left corner at (row, column), two pixels a dot; what lies outside is left out."""
    for place, letter in enumerate(text):
        dots = np.array([[int(octal) >> bit & 1 for bit in (2, 1, 0)] for octal in _GLYPHS[letter]], bool)
        left = column + 8 * place
        spot = picture[max(0, row) : row + 10, left : left + 6]
        spot[np.kron(dots, np.ones((2, 2), bool))[: spot.shape[0], : spot.shape[1]]] = _INK
