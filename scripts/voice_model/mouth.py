"""How far the drawn mouth is open, seen and heard, and how well the two agree: `faces` in NumPy, for any clip."""

from __future__ import annotations

import numpy as np

from scripts.voice_model.config import FRAME_RATE

RATE = 16000
MOUTH_CENTRE, REACH = 0.17, 0.10  # below the middle, and how far up and down from there; of the picture's height
HALF_WIDTH = 1 / 32  # of the column looked at; of the picture's width


def heard_opening(wave: np.ndarray, frames: int, frame_rate: float = FRAME_RATE) -> np.ndarray:
    """The opening (frames,) in [0, 1] that sound (N,) at 16 kHz asks for: `faces.mouth_opening`.

    The envelope over 50 ms around each frame's time, relative to the clip's own loudest.
    """
    total = np.cumsum(np.pad(wave.astype(np.float64) ** 2, (401, 400)))  # one zero more in front: sums from 0
    starts = np.arange(0, len(total) - 801, 80)  # every 5 ms
    envelope = np.sqrt(np.maximum(total[starts + 801] - total[starts], 0) / 801)
    times = (np.arange(frames) + 0.5) / frame_rate
    index = np.minimum((times / 0.005).astype(int), len(envelope) - 1)
    peak = max(float(np.quantile(envelope, 0.98)), 1e-4)
    return np.clip(envelope[index] / peak, 0, 1) ** 0.7


def seen_opening(frames: np.ndarray) -> np.ndarray:
    """Frames (F, H, W, 3) uint8 -> opening (F,), `faces.measured_opening`: how dark the column through the mouth is."""
    height, width = frames.shape[1:3]
    low, high = (int((0.5 + MOUTH_CENTRE + side) * height) for side in (-REACH, REACH))
    half = max(round(HALF_WIDTH * width), 1)
    pixels = frames[:, low:high, width // 2 - half : width // 2 + half].astype(np.float64) / 127.5 - 1
    column = pixels.mean((2, 3))  # (F, rows)
    return (column.max() - column).sum(1)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, of (N,) and (N,); 0 where one does not move at all."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9))
