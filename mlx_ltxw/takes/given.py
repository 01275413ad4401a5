"""What a clip is given, of files: the sizes that follow from it, what has to be said of it, and its samples."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.heap import give_back_freed_memory
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.containers import SOUND, probe
from mlx_ltxw.media.images import compressed, cover, picture_size, read_image, reading_memory
from mlx_ltxw.media.remux import check_remux
from mlx_ltxw.media.video import Picture, describe_picture, is_still, read_video
from mlx_ltxw.pipeline.geometry import LatentGrid
from mlx_ltxw.pipeline.given import NO_MATERIAL, Material, images_of, made_of
from mlx_ltxw.pipeline.keyframes import parse_image
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.pipeline.request import Defaults, Request, Settings
from mlx_ltxw.pipeline.resolve import MOST
from mlx_ltxw.pipeline.spans import added, parse_span
from mlx_ltxw.weights.model_dir import ModelDir

MARGIN = 0.1
"""Seconds of a given sound that are read beyond the clip's end, so that its last token hears what comes after it."""

_LATE_CRF, _CRF = 18, 33  # by version: `ltx_pipelines/utils/constants.py:LTX_2_4_IMAGE_CRF, DEFAULT_IMAGE_CRF`
_FASTEST = 60.0  # frames a second of a clip that is changed at its own rate


def fit_to_given(request: Request, defaults: Defaults, grid: LatentGrid) -> Request:
    """Sets the sizes the user left open from what the clip is given: an existing clip's, a sound's.

    Raises:
        UserError: a file cannot be read, has no picture or sound, is too short, or a stretch is outside of it.
    """
    _check_specs(request.images)
    if request.video is not None and (request.extend is not None or _remade(request)):
        return _fit_to_changed(request, defaults, grid)
    if request.video is not None:
        return fit_to_clip(request, defaults, grid)
    if request.audio is not None and request.frames is None:
        rate = request.frame_rate or defaults.frame_rate
        return dataclasses.replace(request, frames=_frames(sound_seconds(request.audio), rate, grid), frame_rate=rate)
    return request


def fit_to_clip(request: Request, defaults: Defaults, grid: LatentGrid) -> Request:
    """Sets the sizes the user left open from the clip: its shape at the model's usual number of pixels, its length.

    The frame rate stays the model's own; the picture itself is never re-encoded, only seen at this size.

    Raises:
        UserError: the clip cannot be read, has no picture, is too short, or cannot be given a new voice.
    """
    assert request.video is not None
    clip = _clip(request.video)
    check_remux(request.video)
    _check_span(request, clip)
    rate = request.frame_rate or defaults.frame_rate
    return _completed(request, *_shape(clip, defaults, grid), _frames(clip.seconds, rate, grid), rate)


def _fit_to_changed(request: Request, defaults: Defaults, grid: LatentGrid) -> Request:
    """The same for a clip whose picture is made anew in part: its own rate, and its own size where the model has it."""
    assert request.video is not None
    clip = _clip(request.video)
    _check_span(request, clip)
    own = probe(request.video).fps
    rate = request.frame_rate or (float(own) if own and own <= _FASTEST else defaults.frame_rate)
    fits = clip.width % grid.width == 0 and clip.height % grid.height == 0
    usual = clip.width * clip.height <= 1.25 * defaults.width * defaults.height
    size = (clip.width, clip.height) if fits and usual else _shape(clip, defaults, grid)
    frames = _frames(clip.seconds, rate, grid)
    if request.extend is not None:
        whole = max(0, round(clip.seconds * rate) - 1) // grid.frames
        if not whole:
            text = f"{request.video} is too short to go on from: the model sees {grid.frames} frames at a time."
            raise UserError(text, "Use a longer clip.")
        if not math.isfinite(request.extend):
            raise UserError(f"{request.extend} is no number of seconds.", "Give {field:extend} seconds.")
        frames = (whole + added(request.extend, rate, grid.frames)) * grid.frames + 1
        if frames > MOST["frames"]:
            text = f"{{field:extend={request.extend:g}}} makes a clip of {frames} frames, which is beyond any model."
            raise UserError(text, f"Give {{field:extend}} fewer seconds: a clip has up to {MOST['frames']} frames.")
        if request.frames not in (None, frames):
            raise UserError(
                f"{{field:extend={request.extend:g}}} makes {frames} frames, not {request.frames}.",
                "Leave {field:frames} out.",
            )
    return _completed(request, *size, frames, rate)


def notes_of(job: Plan) -> list[str]:
    """What the user should know of a run's given things before it begins: what is cut, cropped, or made anew when.

    Raises:
        UserError: a file cannot be read.
    """
    settings = job.settings
    notes = [note for image in images_of(settings) if (note := _crop_note(image.file, settings))]
    if settings.audio is not None:
        notes += _sound_notes(settings.audio, job.geometry.seconds)
    return notes


def material_of(job: Plan) -> Material:
    """What a run is given; files are read when the run encodes them."""
    settings = job.settings
    if not (settings.images or settings.video or settings.audio):
        return NO_MATERIAL
    crf = _crf(job.model)
    images = [_image(keyframe.file, crf) for keyframe in images_of(settings)]
    frames = None
    if settings.video is not None:
        frames = functools.partial(clip_frames, job)
    return Material(images, frames, _sound(job))


def clip_frames(job: Plan, width: int, height: int) -> np.ndarray:
    """The given clip's frames (F, height, width, 3) uint8 at the run's rate; the last one fills the last latent frame.

    Where the clip is made longer, those that fill whole latent frames.
    """
    settings, grid = job.settings, job.geometry.grid
    assert settings.video is not None
    frames = settings.frames
    if settings.extend is not None:
        frames -= added(settings.extend, settings.frame_rate, grid.frames) * grid.frames
    return read_video(settings.video, frames, settings.frame_rate, width, height, hold=grid.frames)


def shown_frames(job: Plan) -> int:
    """How many frames the result has: not more than the clip where a stretch of it is made anew."""
    settings = job.settings
    if settings.retake is None or settings.video is None:
        return settings.frames
    return min(settings.frames, round(describe_picture(settings.video).seconds * settings.frame_rate))


def sound_seconds(path: str) -> float:
    """How long a file's sound lasts; all of it is decoded, since headers only estimate.

    Raises:
        UserError: no sound in it, or no more of it than a header.
    """
    return len(_heard(path, 8000)) / 8000


def has_sound(path: str) -> bool:
    """Whether a file has a sound track."""
    return probe(path).rate is not None


def _check_specs(images: Sequence[str]) -> None:
    """Refuses a picture whose file is there, and what is written behind its name is neither a frame nor a strength."""
    for text in images:
        file = parse_image(text).file
        ends = [at for at, letter in enumerate(file) if letter in "@:"]
        if not Path(file).exists() and (known := next((at for at in ends if Path(file[:at]).is_file()), None)):
            raise UserError(
                f"'{text[known:]}' behind {file[:known]} is no frame and no strength.",
                "Write FILE@FRAME:STRENGTH, with a whole number, `first` or `last`, and a strength such as 0.8.",
            )


def _heard(path: str, rate: int) -> np.ndarray:
    wave = read_audio(path, rate, 1)
    if not len(wave):
        raise UserError(f"{path} holds no sound: it ends where that would begin.", "Give a file with sound.")
    return wave


def _sound(job: Plan) -> Callable[[int], np.ndarray] | None:
    """The given sound over the run's time: the file's, or the clip's where a part of it is kept."""
    settings = job.settings
    file = settings.audio
    if file is None and (settings.revoice is not None or settings.retake is not None or settings.extend is not None):
        file = settings.video
    if file is None:
        return None
    if settings.revoice is not None and not has_sound(file):
        raise UserError(f"{file} has no sound to make again.", "Give one that has, or leave {field:revoice} out.")
    made = made_of(settings, job.geometry)
    lead = made.lead * job.geometry.grid.frames / settings.frame_rate

    def read(rate: int) -> np.ndarray:
        length = round((job.geometry.seconds + MARGIN) * rate)
        before = round(lead * rate)
        wave = np.zeros((0, 2), np.float32)
        if has_sound(file):
            wave = read_audio(file, rate, seconds=(length - before) / rate)
        wave = np.pad(wave, ((before, 0), (0, 0)))[:length]
        missing = max(0, round(job.geometry.seconds * rate) - len(wave))
        return np.pad(wave, ((0, missing), (0, 0)))

    return read


def _image(file: str, crf: int) -> Callable[[int, int], np.ndarray]:
    def read(width: int, height: int) -> np.ndarray:
        pixels = cover(compressed(read_image(file), crf), width, height)
        give_back_freed_memory()  # tens of bytes for each of the file's pixels
        return pixels

    return read


def reading_of(request: Request) -> int:
    """Bytes that the process itself holds while the largest of a run's pictures is read.

    Raises:
        UserError: a picture cannot be read.
    """
    files = [parse_image(text).file for text in request.images or ()]
    return max((reading_memory(*picture_size(file)) for file in files), default=0)


def _crf(model: ModelDir) -> int:
    """x264's quality that pictures were compressed with in this model's training."""
    numbers = [int(part) if part.isdigit() else 0 for part in model.config.get("model_version", "").split(".")[:2]]
    return _LATE_CRF if numbers >= [2, 4] else _CRF


def _crop_note(file: str, settings: Settings) -> str | None:
    height, width = read_image(file).shape[:2]
    give_back_freed_memory()
    scale = max(settings.width / width, settings.height / height)
    lost = {
        "width": 1 - settings.width / (width * scale),
        "height": 1 - settings.height / (height * scale),
    }
    side, share = max(lost.items(), key=lambda item: item[1])
    if share < 0.005:
        return None
    return f"{file} is {width}x{height}: {share:.0%} of its {side} is cropped to {settings.width}x{settings.height}."


def _sound_notes(file: str, seconds: float) -> list[str]:
    info, wave = probe(file, SOUND), _heard(file, 16000)
    notes, lasts = [], len(wave) / 16000
    if lasts > seconds + 0.05:
        notes.append(f"{file} lasts {lasts:.2f} s; its first {seconds:.2f} s are used.")
    elif lasts < seconds - 0.05:
        notes.append(f"{file} lasts {lasts:.2f} s; silence follows to {seconds:.2f} s.")
    if info.channels and info.channels > 2:
        notes.append(f"{file} has {info.channels} channels; the model hears them mixed down to two.")
    if np.abs(wave).max() < 1e-4:
        notes.append(f"{file} is silent.")
    return notes


def _clip(path: str) -> Picture:
    """What a player shows of a given clip.

    Raises:
        UserError: it cannot be read, has no picture, or is no more than one.
    """
    clip = describe_picture(path)
    if is_still(path):
        raise UserError(
            f"{path} is a single picture, and no clip.", "Give a video file, or the picture as {field:images}."
        )
    return clip


def _check_span(request: Request, clip: Picture) -> None:
    if request.retake is None:
        return
    _, end = parse_span(request.retake)
    if end > clip.seconds + 0.05:
        raise UserError(
            f"The stretch {request.retake} goes beyond {request.video}, which lasts {clip.seconds:.2f} s.",
            "Give {field:retake} a stretch inside of it.",
        )


def _remade(request: Request) -> bool:
    """Whether a stretch of the clip's picture is made anew."""
    return request.retake is not None and request.retake_what != "sound"


def _shape(clip: Picture, defaults: Defaults, grid: LatentGrid) -> tuple[int, int]:
    scale = math.sqrt(defaults.width * defaults.height / (clip.width * clip.height))
    return (
        max(1, round(clip.width * scale / grid.width)) * grid.width,
        max(1, round(clip.height * scale / grid.height)) * grid.height,
    )


def _frames(seconds: float, rate: float, grid: LatentGrid) -> int:
    return max(0, math.ceil((seconds * rate - 1) / grid.frames)) * grid.frames + 1


def _completed(request: Request, width: int, height: int, frames: int, rate: float) -> Request:
    chosen = {"width": width, "height": height, "frames": frames, "frame_rate": rate}
    missing: dict[str, Any] = {name: value for name, value in chosen.items() if getattr(request, name) is None}
    return dataclasses.replace(request, **missing)
