"""Pictures in, from any container that FFmpeg reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.containers import opened, start_of, video_stream

_TAGGED_MATRICES = (1, 5, 6, 9)  # BT.709, BT.470BG, SMPTE 170M, BT.2020


def read_video(
    path: Path | str,
    frames: int,
    fps: float | Fraction,
    width: int,
    height: int,
    *,
    start: float = 0.0,
    hold: int = 0,
) -> np.ndarray:
    """The picture of a file at another rate and size.

    Each instant shows the frame that is on screen then, scaled to cover `width` x `height` and cropped about the
    centre; pixel shape and a phone's rotation mark are honoured.

    Args:
        path: Any file with a picture.
        frames: How many to return.
        fps: Their rate.
        width, height: Their size.
        start: Seconds to leave out at the beginning.
        hold: Up to so many frames that are missing at the end repeat the last one.

    Returns:
        (frames, height, width, 3) uint8, RGB.

    Raises:
        UserError: no picture in it, damaged, or too short.
    """
    out = np.empty((frames, height, width, 3), np.uint8)
    done = 0
    with opened(path) as container:
        stream = video_stream(container)
        if stream is None:
            raise UserError(f"{path} has no picture that can be decoded.", "Give a video file.")
        for frame, until in _timeline(container, stream, start):
            # a tenth of a frame forgives timestamps that were rounded to milliseconds
            stop = min(frames, math.ceil((until - start) * fps - 0.1))
            if stop > done:
                out[done:stop] = _conform(frame, stream, width, height)
                done = stop
            if done == frames:
                return out
    if done and frames - done <= hold:
        out[done:] = out[done - 1]
        return out
    raise UserError(
        f"{path} is too short: {done} of {frames} frames at {float(fps):g} frames a second.",
        "Use a longer clip, or ask for fewer frames.",
    )


def _timeline(container: Any, stream: Any, start: float) -> Iterator[tuple[Any, float]]:
    """Decoded frames, each with the second (from the stream's start) at which the next one takes its place."""
    stream.thread_type = "AUTO"
    origin = float(start_of(stream))
    step = float(1 / (stream.average_rate or 25))
    if start > 1:
        container.seek(int((start + origin) * 1e6))  # lands on the key frame before it
    waiting, time = None, -step
    for frame in container.decode(stream):
        time = time + step if frame.pts is None else float(frame.pts * stream.time_base) - origin
        if waiting is not None:
            yield waiting, time
        waiting = frame
    if waiting is not None:
        yield waiting, time + step


def _conform(frame: Any, stream: Any, width: int, height: int) -> np.ndarray:
    """A decoded frame -> (height, width, 3) uint8."""
    from av.video.reformatter import Colorspace, Interpolation

    turns = round(frame.rotation / 90) % 4  # quarter turns anticlockwise
    across, down = (height, width) if turns % 2 else (width, height)  # as the frame is stored
    shape = float(stream.sample_aspect_ratio or 1)
    scale = max(across / (frame.width * shape), down / frame.height)
    wide, high = max(across, round(frame.width * shape * scale)), max(down, round(frame.height * scale))
    guess = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601  # as players do with unmarked files
    picture = frame.reformat(
        width=wide,
        height=high,
        format="rgb24",
        src_colorspace=None if int(frame.colorspace) in _TAGGED_MATRICES else guess,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
    ).to_ndarray()
    left, top = (wide - across) // 2, (high - down) // 2
    return np.rot90(picture[top : top + down, left : left + across], turns)
