"""Spectrogram pictures: mel-spaced frequency up, time to the right, written as png without a plotting library."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_ltxw.media.audio import as_waveform
from mlx_ltxw.media.files import write_bytes
from mlx_ltxw.media.metadata import PNG_SIGNATURE, png_chunk, png_text_chunk, to_text

_WINDOW = 0.040  # seconds: resolves a low man's harmonics, and still single syllables
_RANGE_DB = 80.0
_TOP_HZ = 16000.0
_ROWS = 256  # a panel's height
_COLUMNS = (400, 1600)  # least and most
_COLUMNS_A_SECOND = 200
_LEFT, _BELOW, _GAP = 44, 22, 8  # margins for the labels
_INK = np.array([190, 190, 190], np.uint8)
_TICKS_HZ = (100, 250, 500, 1000, 2000, 4000, 8000, 16000)
_FONT = {  # 3 x 5 dots a glyph, rows from the top
    "0": "757", "1": "262", "2": "717", "3": "717", "4": "557", "5": "747", "6": "747", "7": "711", "8": "757",
    "9": "757", ".": "000", "k": "456", "s": "036",
}  # fmt: skip


def mel_picture(samples: np.ndarray, rate: int, columns: int) -> np.ndarray:
    """(N,) or (N, C) -> (256, columns) fp32: dB of the power density, mel-spaced rows from the top frequency down."""
    return np.zeros((0,))
