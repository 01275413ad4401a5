"""A made clip in memory."""

from __future__ import annotations

import base64
import dataclasses
import html
import warnings
from pathlib import Path

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.measure import Measurement, measure
from mlx_ltxw.pipeline.events import Decoded
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.pipeline.request import Settings
from mlx_ltxw.scratch import temporary_folder
from mlx_ltxw.takes.compose import finished
from mlx_ltxw.takes.events import Suspect
from mlx_ltxw.takes.given import clip_frames, shown_frames
from mlx_ltxw.takes.output import Output
from mlx_ltxw.takes.record import clip_record, only_take
from mlx_ltxw.takes.write import write_files


class Clip:
    """What a model has made. In a notebook it shows itself with a player.

    Attributes:
        waveform: (N, 2) fp32 in [-1, 1], at its decoded level; `save` turns down what would peak above -1 dBTP.
        sample_rate: Samples a second of the waveform.
        settings: Every choice that made it, with its one seed.
    """

    def __init__(self, job: Plan, made: Decoded) -> None:
        self.waveform = made.waveform
        self.sample_rate = made.rate
        job = job if made.take is None else only_take(job, made.take)
        self.settings: Settings = dataclasses.replace(job.settings, seeds=(made.seed,))
        self._job = job
        self._made = made
        self._frames: np.ndarray | None = None

    def __repr__(self) -> str:
        settings, seconds = self.settings, len(self.waveform) / self.sample_rate
        size = f"{settings.width}x{settings.height}, " if self.has_picture else "sound alone, "
        take = "" if self._made.take is None else f", take {self._made.take}"
        return f"<Clip {size}{seconds:.2f} s, seed {settings.seeds[0]}{take}: {settings.prompt!r}>"

    @property
    def has_picture(self) -> bool:
        """Whether there are frames."""
        return not self.settings.audio_only

    @property
    def frames(self) -> np.ndarray:
        """(F, H, W, 3) uint8 RGB, decoded when first asked for. Of a given clip, as the model saw it.

        Raises:
            UserError: there is no picture.
        """
        if self._frames is None:
            self._frames = self._decoded()
        return self._frames

    def measure(self) -> Measurement:
        """Loudness, voicing, timbre and the register they imply."""
        return measure(self.waveform, self.sample_rate)

    def save(self, path: str | Path, *, overwrite: bool = True) -> Path:
        """Writes an mp4, or a wav of the sound, with the request that made it inside; its peaks stay below -1 dBTP.

        Args:
            path: Its ending says which.
            overwrite: Whether a file of that name may be replaced.

        Warns: a picture of one colour, or silence.

        Raises:
            UserError: another ending, or the file cannot be written.
        """
        path = Path(path)
        Output(path, overwrite=overwrite).check(self.settings)
        pictured = path.suffix.lower() == ".mp4" and self._made.video is not None
        made = dataclasses.replace(finished(self._made, self._job), video=iter([self.frames]) if pictured else None)
        for event in write_files([path], made, self.settings, clip_record(self._job, self._made.seed)):
            if isinstance(event, Suspect):
                warnings.warn(" ".join(event.notes), stacklevel=2)
        return path

    def _decoded(self) -> np.ndarray:
        if not self.has_picture:
            raise UserError("This clip is sound alone.", "Leave {field:audio_only} out to make a picture.")
        if self._made.video is None:
            return clip_frames(self._job, self.settings.width, self.settings.height)[: shown_frames(self._job)]
        frames = np.concatenate([np.empty((0, self.settings.height, self.settings.width, 3), np.uint8),
                                 *self._made.video])  # fmt: skip
        if len(frames) != shown_frames(self._job):
            raise UserError("The decoding of this clip's picture was cut off before.", "Make the clip again.")
        return frames

    def _repr_html_(self) -> str:
        """A player, for notebooks."""
        tag, kind, ending = ("video", "video/mp4", ".mp4") if self.has_picture else ("audio", "audio/wav", ".wav")
        with temporary_folder() as folder:
            data = self.save(folder / f"clip{ending}").read_bytes()
        source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        take = "" if self._made.take is None else f", take {self._made.take}"
        caption = html.escape(f"{self.settings.prompt} (seed {self.settings.seeds[0]}{take})")
        return f'<figure><{tag} controls src="{source}"></{tag}><figcaption>{caption}</figcaption></figure>'
