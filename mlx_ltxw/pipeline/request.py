"""What one run makes: the Request, its defaults by model, and its JSON form in the output's metadata."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.parsing import build
from mlx_ltxw.pipeline.guidance import (
    DEFAULT_NEGATIVE_PROMPT,
    DEV_AUDIO,
    DEV_VIDEO,
    NO_GUIDANCE,
    Guidance,
)

ONE_STAGE, TWO_STAGE, HQ = "one-stage", "two-stage", "hq"
PIPELINES = (ONE_STAGE, TWO_STAGE, HQ)
"""The official recipes (`recipes.py`)."""
RANDOM = -1
"""Stands for any seed; the one that is drawn is in the settings."""
SEED = 10
DTYPES = ("bfloat16", "float16", "float32")
SEEDS = 1 << 64


_KINDS: tuple[tuple[str, type, str], ...] = (
    *((name, Integral, "Give a whole number.") for name in ("width", "height", "frames", "steps")),
    *((name, Real, "Give a number.") for name in ("frame_rate", "revoice", "extend")),
    *((name, str, "Give a text.") for name in ("prompt", "negative_prompt", "pipeline", "upsampler", "register_at",
                                               "retake_what", "dtype")),
    ("retake", str, "Write two seconds in a text, such as '1.2-2.4'."),
    *((name, Guidance, "Give a Guidance.") for name in ("video_guidance", "audio_guidance")),
)  # fmt: skip
"""Fields that hold one value: name, type, and what to do about another."""
_NEEDED = ("prompt", "retake_what")


@dataclass(frozen=True)
class Request:
    """One run. A field left at None takes the model's default when the run is resolved.

    Attributes:
        prompt: What is seen and said.
        negative_prompt: What guidance steers away from.
        seeds: One clip each: 0 to 2^64 - 1, or -1 for any.
        width, height: Pixels.
        frames: Video frames; also sets the length of audio without a picture.
        frame_rate: Frames a second.
        steps: Denoising steps, of the first stage where there are two.
        pipeline: `one-stage`, `two-stage` or `hq` (`mlx_ltxw.pipeline.recipes`).
        upsampler: Between two stages: `spatial-x2` or `spatial-x1.5`.
        distilled_lora: `FILE|REPO[:STRENGTH]`, LTX-2.3's own: for a second stage of the dev model, or to make all of
            it fast in one stage; `hq` takes two strengths, `FILE:0.25/0.5`.
        video_guidance, audio_guidance: Steering of each modality.
        audio_only: Make sound alone; nothing of the video side is loaded.
        adapters: `FILE|REPO|NAME[:STRENGTH]`, all at once.
        lock_video: Keep the picture exactly that of a run without adapters.
        fuse: Fuse adapters into quantised weights too.
        allow_partial: Leave out what of an adapter has no place.
        register_at: The adapter's strength in time, such as `0-2=whispering,2-4=normal`.
        video: A clip whose picture is kept and given a new voice; with `retake` or `extend`, the clip they change.
        images: `FILE[@FRAME][:STRENGTH]`: pictures that the clip goes through, by default at frame 0.
        audio: A sound that is kept, and that a picture is made to.
        revoice: Make the sound of `audio` or `video` again in the prompt's register, from noise of this strength: over
            0, where it stays as it is, to 1, where nothing of it is left.
        retake: The stretch of `video` that is made anew, in seconds: `1.2-2.4`.
        retake_what: `picture`, `sound` or `both`.
        extend: Seconds that `video` is made longer; before its beginning where negative.
        soften_onset: Take down a click at the sound's very start, which the official decoder has too.
        remove_offset: Take out what lies below 20 Hz, such as a constant offset.
        takes: Several sounds on the one picture, such as `manner=soft seed=3` (`mlx_ltxw.prompts.takes`).
        dtype: Of the transformer: `bfloat16`, `float16` or `float32`; None is this machine's own.
    """

    prompt: str
    negative_prompt: str | None = None
    seeds: tuple[int, ...] = (SEED,)
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    frame_rate: float | None = None
    steps: int | None = None
    pipeline: str | None = None
    upsampler: str | None = None
    distilled_lora: str | None = None
    video_guidance: Guidance | None = None
    audio_guidance: Guidance | None = None
    audio_only: bool = False
    adapters: tuple[str, ...] = ()
    lock_video: bool = True
    fuse: bool = False
    allow_partial: bool = False
    register_at: str | None = None
    video: str | None = None
    images: tuple[str, ...] = ()
    audio: str | None = None
    revoice: float | None = None
    retake: str | None = None
    retake_what: str = "both"
    extend: float | None = None
    soften_onset: bool = True
    remove_offset: bool = True
    takes: tuple[str, ...] = ()
    dtype: str | None = None

    def __post_init__(self) -> None:
        for name, kind in (("seeds", int), ("adapters", str), ("images", str), ("takes", str)):
            value = getattr(self, name)
            if not isinstance(value, tuple | list) or not all(isinstance(item, kind) for item in value):
                raise UserError(f"{{field:{name}}} is {value!r}.", "Give a tuple, also of a single one.")
            if kind is str and not all(map(str.strip, value)):
                raise UserError(f"One of {{field:{name}}} is empty.", "Leave it out, or say which.")
            object.__setattr__(self, name, tuple(value))
        for name, wanted, hint in _KINDS:
            value = getattr(self, name)
            if value is None and name not in _NEEDED:
                continue
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise UserError(f"{{field:{name}}} is {value!r}.", hint)
            if isinstance(value, Real) and not isinstance(value, int | float):  # one of numpy's, which JSON lacks
                object.__setattr__(self, name, int(value) if isinstance(value, Integral) else float(value))
        for name in ("video", "audio", "distilled_lora"):
            if (file := getattr(self, name)) is not None:
                if not str(file).strip():
                    raise UserError(f"{{field:{name}}} is empty.", "Leave it out, or name a file.")
                object.__setattr__(self, name, str(file))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Request:
        """The request that a file's metadata holds (`Settings.to_dict`, and what names its maker).

        Raises:
            UserError: it is no request, or has fields this version does not know.
        """
        makers = ("kind", "mlx_ltxw", "model", "adapter_sha256")
        request = {name: value for name, value in values.items() if name not in makers}
        return build(cls, request, "The stored request", "Use a file that this version of mlx-ltxw generate wrote.")


@dataclass(frozen=True)
class Defaults:
    """A model's own defaults; a model dir's `config.json` may set its own under `generation`.

    Source of the values here: `ltx_pipelines/utils/constants.py:LTX_2_3_PARAMS`.
    """

    width: int = 768
    height: int = 512
    frames: int = 121
    frame_rate: float = 24.0
    steps: int = 30
    negative_prompt: str = DEFAULT_NEGATIVE_PROMPT
    video_guidance: Guidance = DEV_VIDEO
    audio_guidance: Guidance = DEV_AUDIO


@dataclass(frozen=True)
class Settings:
    """A request with every field set; what the output's metadata keeps. Fields as in `Request`."""

    prompt: str
    negative_prompt: str
    seeds: tuple[int, ...]
    width: int
    height: int
    frames: int
    frame_rate: float
    steps: int
    video_guidance: Guidance
    audio_guidance: Guidance
    audio_only: bool
    adapters: tuple[str, ...]
    lock_video: bool
    fuse: bool
    allow_partial: bool
    register_at: str | None = None
    video: str | None = None
    images: tuple[str, ...] = ()
    audio: str | None = None
    revoice: float | None = None
    retake: str | None = None
    retake_what: str = "both"
    extend: float | None = None
    soften_onset: bool = True
    remove_offset: bool = True
    takes: tuple[str, ...] = ()
    pipeline: str = ONE_STAGE
    upsampler: str | None = None
    distilled_lora: str | None = None
    dtype: str | None = None

    @property
    def makes_picture(self) -> bool:
        """Whether a picture, or a stretch of one, is made, and not only given."""
        if self.audio_only:
            return False
        changed = self.extend is not None or (self.retake is not None and self.retake_what != "sound")
        return self.video is None or changed

    @property
    def makes_sound(self) -> bool:
        """Whether a sound, or a stretch of one, is made, and not only given."""
        if self.audio is not None and self.revoice is None:
            return False
        return self.retake is None or self.retake_what != "picture"

    @property
    def guidance(self) -> tuple[Guidance | None, Guidance]:
        """Of the video, unless the clip has none, and of the audio. What is only given is not steered."""
        audio = self.audio_guidance if self.makes_sound else NO_GUIDANCE
        if self.audio_only:
            return None, audio
        return self.video_guidance if self.makes_picture else NO_GUIDANCE, audio

    @property
    def locked(self) -> bool:
        """Whether adapters act in audio streams of their own; a given picture, or none, needs no lock but for takes."""
        needed = bool(self.takes) or (bool(self.adapters) and self.makes_picture)
        return needed and self.lock_video and not self.audio_only

    def to_dict(self, seed: int | None = None) -> dict[str, Any]:
        """As JSON takes it; with a seed, the settings that make that one clip again."""
        one = self if seed is None else dataclasses.replace(self, seeds=(seed,))
        return dataclasses.asdict(one)
