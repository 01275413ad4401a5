"""Spectrogram pictures: mel-spaced frequency up in kHz, seconds to the right, colour in dB with its scale beside it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_ltxw.files import write_bytes
from mlx_ltxw.media.metadata import PNG_SIGNATURE, png_text_chunk, to_text
from mlx_ltxw.media.sound import opened_sound

TOP_HZ = 16000.0
RANGE_DB = 80.0
ROWS = 256

_WINDOW = 0.040  # seconds: shows a low man's harmonics and still single syllables
_FULL_SCALE_DB = 3.01  # a full-scale sine, whose mean square is a half, has 0 dBFS (AES17)
_FLOOR = 1e-20


@dataclass(frozen=True)
class Spectrogram:
    """One clip's spectrogram.

    Attributes:
        level: (256, columns) dBFS per Hz, the highest band first.
        top: Hz, the upper edge of the highest band.
        seconds: From the left edge to the right one.
        title: Above it.
        letters: One a second, below the title; empty for none.
    """

    level: np.ndarray
    top: float
    seconds: float
    title: str = ""
    letters: str = ""


def spectrogram_of(path: Path | str, seconds: float, top: float, title: str = "", letters: str = "") -> Spectrogram:
    """A file's spectrogram on a given scale of time and frequency, read block by block.

    Raises:
        UserError: the file cannot be read.
    """
    with opened_sound(path) as (rate, _, blocks):
        return Spectrogram(decibels(blocks, rate, columns_of(seconds), seconds, top), top, seconds, title, letters)


def write_png(path: Path | str, picture: np.ndarray, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes (H, W, 3) uint8, whole or not at all.

    Raises:
        UserError: `path` cannot be written.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    data = buffer.getvalue()
    text = b"" if metadata is None else png_text_chunk(to_text(metadata))
    header = len(PNG_SIGNATURE) + 25  # signature and IHDR
    write_bytes(path, data[:header] + text + data[header:])


def top_of(rate: int) -> float:
    """The highest frequency that is drawn, Hz."""
    return min(TOP_HZ, 0.49 * rate)


def columns_of(seconds: float) -> int:
    """How wide a picture of so many seconds is."""
    return int(np.clip(200 * seconds, 600, 1600))


def decibels(blocks: Iterable[np.ndarray], rate: int, columns: int, seconds: float, top: float = TOP_HZ) -> np.ndarray:
    """Power density of blocks (N, C), the channels' mean power, in dBFS per Hz -> (256, columns), the highest of 256
    mel bands first. Columns are evenly spread over `seconds`; what lies beyond the sound's end or band is -200."""
    size = round(_WINDOW * rate)
    taper = np.hanning(size + 2)[1:-1]
    points = 2 * size
    edge = mel_edges(top) / rate * points + 0.5
    below = edge.astype(int).clip(0, points // 2)
    out = np.full((ROWS, columns), 10 * np.log10(_FLOOR))
    for column, windows in _windows(blocks, rate, columns, seconds, size):
        spectrum = np.fft.rfft(windows * taper, points, axis=-1)
        power = (spectrum.real**2 + spectrum.imag**2).mean(axis=1) * (2 / rate / (taper**2).sum())  # (K, bins)
        # the integral of the power up to each band's edges, which may lie between two bins or span many
        total = np.pad(np.cumsum(power, axis=1), ((0, 0), (1, 0)))
        upto = total[:, below] + (edge - below).clip(0, 1) * (total[:, below + 1] - total[:, below])
        density = np.diff(upto, axis=1) / np.diff(edge)
        out[:, column : column + len(windows)] = 10 * np.log10(density.T[::-1] + _FLOOR) + _FULL_SCALE_DB
    return out


def _windows(
    blocks: Iterable[np.ndarray], rate: int, columns: int, seconds: float, size: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Windows (K, C, size) around the middles of columns, with the first's column."""
    middles = ((np.arange(columns) + 0.5) * seconds * rate / columns).astype(int)
    held: np.ndarray | None = None
    start, done = -(size // 2), 0  # of `held`, and the columns that are made
    for block in _and_silence(blocks, size):
        if held is None:
            held = np.zeros((size // 2, block.shape[1]), np.float32)
        held = np.concatenate([held, block])
        last = int(np.searchsorted(middles, start + len(held) - size + size // 2, "right"))
        for at in range(done, last, 100):
            firsts = middles[at : min(last, at + 100)] - size // 2 - start
            yield at, np.stack([held[first : first + size].T for first in firsts])
        done = max(done, last)
        keep = min(len(held), max(0, len(held) - 2 * size))
        held, start = held[keep:], start + keep


def _and_silence(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    block = None
    for block in blocks:
        yield block
    if block is not None:
        yield np.zeros((size, block.shape[1]), np.float32)


def mel_edges(top: float) -> np.ndarray:
    """(257,) Hz from 0 to `top`, equally far apart in mel (O'Shaughnessy 1987)."""
    return 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + top / 700), ROWS + 1) / 2595) - 1)


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
