"""`--image FILE[@FRAME][:STRENGTH]`: pictures that a clip goes through, and where their tokens lie.

Source: `ltx_pipelines/utils/helpers.py:combined_image_conditionings`,
`ltx_core/conditioning/types/keyframe_cond.py` (version 1.2.0).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.parsing import finite_number
from mlx_ltxw.pipeline.geometry import Geometry

MOST = 64
"""Pictures of one clip."""

_SPEC = re.compile(r"(?P<file>.+?)(@(?P<frame>first|last|-?\d{1,9}))?(:(?P<strength>\d*\.?\d+))?", re.S)


@dataclass(frozen=True)
class Keyframe:
    """A picture at one frame of a clip.

    Attributes:
        file: Its name.
        frame: From 0; a negative one counts from the end, -1 is the last.
        strength: 1 keeps it as it is, less lets the model move away from it.
    """

    file: str
    frame: int = 0
    strength: float = 1.0


def parse_image(text: str) -> Keyframe:
    """Reads `FILE`, `FILE@FRAME`, `FILE:STRENGTH` or `FILE@FRAME:STRENGTH`.

    FRAME is a number, `first` or `last`.

    Raises:
        UserError: an empty name, or a strength that is not above 0 and up to 1.
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise UserError(f"'{text}' names no picture.", "Write FILE, FILE@FRAME or FILE@FRAME:STRENGTH.")
    frame, strength = match["frame"], finite_number(match["strength"] or "1")
    if strength is None or not 0 < strength <= 1:
        raise UserError(
            f"The picture '{text}' has a strength of {match['strength']}.", "Give one above 0, up to 1, or none."
        )
    named = {None: 0, "first": 0, "last": -1}
    return Keyframe(match["file"], named[frame] if frame in named else int(frame), strength)


def placed(images: Sequence[str], frames: int) -> list[Keyframe]:
    """The pictures of a clip of so many frames, each with its frame from 0, in order of time.

    Raises:
        UserError: too many, one outside of the clip, or two at one frame.
    """
    if len(images) > MOST:
        raise UserError(f"{len(images)} pictures are too many for one clip.", f"Give up to {MOST}.")
    found: dict[int, Keyframe] = {}
    for text in images:
        image = parse_image(text)
        frame = image.frame + frames if image.frame < 0 else image.frame
        if not 0 <= frame < frames:
            raise UserError(
                f"The picture '{text}' is outside of the clip, which has frames 0 to {frames - 1}.",
                "Give a frame of the clip, or more of {field:frames}.",
            )
        if frame in found:
            raise UserError(f"Two pictures are given for frame {frame}.", "Give one for each frame.")
        found[frame] = Keyframe(image.file, frame, image.strength)
    return [found[frame] for frame in sorted(found)]


def appended_positions(keyframes: Sequence[Keyframe], geometry: Geometry) -> np.ndarray | None:
    """Midpoints (1, 3, K) fp32 of the tokens of all pictures but that of frame 0, whose place is in the clip itself.

    A picture's tokens lie over the whole frame, for the time of one video frame. None if there are none.
    """
    one = Geometry(geometry.width, geometry.height, 1, geometry.frame_rate, geometry.grid).video_positions()
    rate = np.float32(geometry.frame_rate)
    blocks = []
    for keyframe in keyframes:
        if keyframe.frame == 0:
            continue
        block = one.copy()
        start, end = np.float32(keyframe.frame) / rate, np.float32(keyframe.frame + 1) / rate
        block[:, 0] = (start + end) / np.float32(2)
        blocks.append(block)
    return np.concatenate(blocks, axis=-1) if blocks else None
