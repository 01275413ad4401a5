"""Clips cut together: pictures and sounds of consecutive parts, blended where they meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np


def join_waveforms(parts: Sequence[np.ndarray], overlap: int) -> np.ndarray:
    """Sounds one after another, each fading into the next with constant power, since they are not alike.

    Args:
        parts: (N, 2) fp32 each.
        overlap: Samples that neighbours share; shortened to half of the shorter neighbour.

    Returns:
        (sum of N - shared, 2) fp32.
    """
    joined = parts[0]
    for part in parts[1:]:
        shared = min(overlap, len(joined) // 2, len(part) // 2)
        angle = (np.arange(shared, dtype=np.float32)[:, None] + 0.5) / max(shared, 1) * (np.pi / 2)
        start = len(joined) - shared
        blend = joined[start:] * np.cos(angle) + part[:shared] * np.sin(angle)
        joined = np.concatenate([joined[:start], blend, part[shared:]]).astype(np.float32)
    return joined


def join_frames(parts: Iterable[np.ndarray], overlap: int) -> Iterator[np.ndarray]:
    """Pictures one after another, the last frames of each dissolving into the first of the next.

    Args:
        parts: (F, H, W, 3) uint8 each, of one size; only two are held at a time.
        overlap: Frames that neighbours share; shortened to half of the shorter neighbour.

    Yields:
        (f, H, W, 3) uint8 in order.
    """
    tail: np.ndarray | None = None
    for part in parts:
        if tail is not None:
            shared = min(overlap, len(tail) // 2, len(part) // 2)
            yield tail[: len(tail) - shared]
            weight = ((np.arange(shared, dtype=np.float32) + 1) / (shared + 1))[:, None, None, None]
            before, after = tail[len(tail) - shared :].astype(np.float32), part[:shared].astype(np.float32)
            yield np.rint(before * (1 - weight) + after * weight).astype(np.uint8)
            part = part[shared:]
        tail = part
    if tail is not None:
        yield tail
