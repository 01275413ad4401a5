"""Which stretch of a clip is made anew, in whole tokens: `--retake 1.2-2.4`, `--extend 2`.

Source: `ltx_core/conditioning/types/noise_mask_cond.py:TemporalRegionMask` (version 1.2.0).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.parsing import finite_number
from mlx_ltxw.pipeline.geometry import Geometry

WHAT = ("both", "picture", "sound")
"""What a retake may make anew."""

_SPAN = re.compile(r"\s*([\d.]+)\s*-\s*([\d.]+)\s*(?:s\s*)?")


@dataclass(frozen=True)
class Stretch:
    """A stretch along one stream's time.

    Attributes:
        start, stop: Tokens along time, `start` inclusive; an empty one is (0, 0).
    """

    start: int
    stop: int

    def __bool__(self) -> bool:
        return self.stop > self.start

    def mask(self, steps: int, each: int = 1) -> np.ndarray:
        """(1, steps * each) fp32: 1 in the stretch, 0 outside; `each` tokens at every moment."""
        mask = np.zeros((steps, each), np.float32)
        mask[self.start : self.stop] = 1
        return mask.reshape(1, -1)


NOTHING = Stretch(0, 0)


@dataclass(frozen=True)
class Made:
    """What of a clip is made, and not given.

    Attributes:
        video: In latent frames.
        audio: In audio tokens.
        lead: Latent frames that the result has before the given clip begins.
    """

    video: Stretch
    audio: Stretch
    lead: int = 0


def parse_span(text: str) -> tuple[float, float]:
    """Reads `1.2-2.4`, in seconds.

    Raises:
        UserError: no such thing, or empty.
    """
    match = _SPAN.fullmatch(text)
    start, end = (finite_number(match[1]), finite_number(match[2])) if match else (None, None)
    if start is None or end is None:
        raise UserError(f"'{text}' is no stretch of time.", "Write two seconds, such as 1.2-2.4.")
    if end <= start:
        raise UserError(f"The stretch '{text}' is empty.", "Write its beginning first, such as 1.2-2.4.")
    return start, end


def touched(start: float, end: float, bounds: np.ndarray) -> Stretch:
    """The tokens (N, 2), each from its first to its last second, that lie in a stretch of time at least in part."""
    inside = np.flatnonzero((bounds[:, 1] > start) & (bounds[:, 0] < end))
    return Stretch(int(inside[0]), int(inside[-1]) + 1) if len(inside) else NOTHING


def video_bounds(geometry: Geometry) -> np.ndarray:
    """(F', 2) float64: first and last second of each latent frame."""
    step, index = geometry.grid.frames, np.arange(geometry.latent_shape[0])
    return np.stack([np.maximum(index * step - (step - 1), 0), index * step + 1], axis=1) / geometry.frame_rate


def audio_bounds(geometry: Geometry) -> np.ndarray:
    """(T, 2) float64: first and last second of each audio token."""
    step, index = geometry.grid.mel_frames, np.arange(geometry.audio_tokens)
    return np.stack([np.maximum(index * step - (step - 1), 0), index * step + 1], axis=1) * geometry.grid.mel_seconds


def retaken(text: str, what: str, geometry: Geometry) -> Made:
    """What a retake makes anew.

    Raises:
        UserError: the stretch is outside of the clip.
    """
    start, end = parse_span(text)
    video, audio = (touched(start, end, bounds(geometry)) for bounds in (video_bounds, audio_bounds))
    if not video or not audio:
        raise UserError(
            f"The stretch {text} is outside of the clip, which lasts {geometry.seconds:.2f} s.",
            "Give {field:retake} a stretch inside of it.",
        )
    return Made(NOTHING if what == "sound" else video, NOTHING if what == "picture" else audio)


def added(seconds: float, frame_rate: float, step: int) -> int:
    """Latent frames, at least one, that come nearest to so many seconds; `step` video frames each."""
    return max(1, round(abs(seconds) * frame_rate / step))


def extended(seconds: float, geometry: Geometry) -> Made:
    """What is made when a clip is made longer, of the whole that it becomes; before the clip where negative."""
    total, tokens = geometry.latent_shape[0], geometry.audio_tokens
    new = min(added(seconds, geometry.frame_rate, geometry.grid.frames), total - 1)
    bounds = audio_bounds(geometry)
    if seconds > 0:
        kept = video_bounds(geometry)[total - new - 1, 1]
        return Made(Stretch(total - new, total), Stretch(int((bounds[:, 1] <= kept + 1e-6).sum()), tokens))
    # The clip's first frame has a latent frame of its own, which lies at the end of one that is made.
    begin = new * geometry.grid.frames / geometry.frame_rate
    return Made(Stretch(0, new + 1), Stretch(0, int((bounds[:, 0] < begin - 1e-6).sum())), lead=new)


def seconds_of(span: Stretch, bounds: np.ndarray) -> tuple[float, float]:
    """From when to when a stretch lasts; `bounds` as above."""
    return float(bounds[span.start, 0]), float(bounds[span.stop - 1, 1])
