"""What a made clip should not be: silent, or of one colour. A GPU can return either without an error."""

from __future__ import annotations

import numpy as np

from mlx_ltxw.pipeline.events import Decoded

_SILENT = 1e-3  # of full scale: -60 dBFS
_FLAT = 1.0  # of 255: standard deviation of a frame's pixels; noise and codecs stay below
_AGAIN = "Make it again with another seed; if it is so again, run `mlx-ltxw doctor`."


class Suspicion:
    """Looks at a clip while it is written.

    Args:
        clip: Its sound is looked at; frames are shown as they come.
        makes_sound: Whether the sound is not only given.
    """

    def __init__(self, clip: Decoded, makes_sound: bool = True) -> None:
        quiet = not len(clip.waveform) or bool(np.abs(clip.waveform).max() < _SILENT)
        self._silent = makes_sound and quiet
        self._flat = 0
        self._frames = 0

    def frames(self, chunk: np.ndarray) -> np.ndarray:
        """Looks at frames (f, H, W, 3) uint8 and gives them back."""
        spread = chunk.reshape(len(chunk), -1, 3).astype(np.float32).std(axis=1).max(axis=-1)
        self._frames += len(chunk)
        self._flat += int((spread < _FLAT).sum())
        return chunk

    @property
    def notes(self) -> tuple[str, ...]:
        """What is wrong with what was seen so far; nothing for a clip like any other."""
        found = []
        if self._frames and self._flat == self._frames:
            found.append(f"The picture is of one colour in all its {self._frames} frames. {_AGAIN}")
        if self._silent:
            found.append(f"The sound is silent. {_AGAIN}")
        return tuple(found)
