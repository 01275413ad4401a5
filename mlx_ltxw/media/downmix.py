"""More than two channels to two, as the official trainer mixes them: nothing gets louder than full scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_ASIDE = 0.707  # of what stands in the middle, beside or behind, to what stands in front
_LOW = {"LFE", "LFE2"}  # left out
_ORDERS = {
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}
"""FFmpeg's order of the usual layouts, for files that name none."""


def downmix_matrix(names: Sequence[str]) -> np.ndarray:
    """(C, 2) fp32: what of each channel goes left and right; each side's weights add up to 1.

    Of 5.1, left is (L + 0.707 C + 0.707 Ls) / 2.414, of 7.1 (L + 0.707 C + 0.707 Ls + 0.707 Lb) / 3.121. Source: the
    official trainer's `process_videos.py:encode_audio`; other layouts follow the same rule.

    Args:
        names: FFmpeg's of the channels, such as `FL`; where one is unknown, their number decides.
    """
    if not all(_side(name) for name in names):
        names = _ORDERS.get(len(names), ("FC",) * len(names))
    matrix = np.zeros((len(names), 2))
    for channel, name in enumerate(names):
        for side, letter in enumerate("LR"):
            if name not in _LOW and _side(name) in (letter, "C"):
                matrix[channel, side] = 1.0 if name == f"F{letter}" else _ASIDE
    total = matrix.sum(axis=0)
    return (matrix / np.where(total > 0, total, 1)).astype(np.float32)


def _side(name: str) -> str:
    """`L`, `R` or `C` for the middle; empty for a name that FFmpeg does not have."""
    if name in _LOW:
        return "C"
    if name in ("FLC", "FRC"):
        return name[1]
    known = len(name) <= 4 and name[:1] in ("F", "B", "S", "W", "T", "D", "L", "R")
    return name[-1] if known and name[-1:] in ("L", "R", "C") else ""
