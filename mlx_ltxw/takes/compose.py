"""What is made and what is given, put together: outside of what was made anew a clip is its original's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.copy_sound import copies_sound
from mlx_ltxw.media.measure import Measurement, measure
from mlx_ltxw.media.video import describe_picture
from mlx_ltxw.pipeline.events import Decoded
from mlx_ltxw.pipeline.given import Material, level_of, made_of
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.pipeline.spans import Made, Stretch, audio_bounds, seconds_of, video_bounds
from mlx_ltxw.takes.given import shown_frames
from mlx_ltxw.takes.headroom import turned_down

_HEARD = 0.05  # seconds: nothing can be said of a voice in less
CROSSFADE = 0.02
"""Seconds that the new sound takes to come in and to go; within its own stretch, so that the rest stays as it was."""


def composed(clip: Decoded, job: Plan, material: Material) -> Decoded:
    """A decoded clip with the original's frames and samples where they are given."""
    settings = job.settings
    if settings.retake is None and settings.extend is None:
        return clip
    made, geometry = made_of(settings, job.geometry), job.geometry
    if made.audio and material.sound is not None:
        original = _fitted(material.sound(clip.rate), round(geometry.seconds * clip.rate))
        new = turned_down(clip).waveform  # the original stays at its level
        clip = dataclasses.replace(clip, waveform=mixed(original, new, made.audio, audio_bounds(geometry), clip.rate))
    seconds = shown_frames(job) / settings.frame_rate
    clip = dataclasses.replace(clip, waveform=clip.waveform[: round(seconds * clip.rate)])
    if clip.video is None or material.frames is None:
        return clip
    return dataclasses.replace(clip, video=_frames(clip.video, job, material))


def mixed(original: np.ndarray, new: np.ndarray, made: Stretch, bounds: np.ndarray, rate: int) -> np.ndarray:
    """A sound with another in a stretch of it: (N, 2) fp32, as long as the original.

    At the seams the two fade with constant power, as they are not alike; outside of the stretch no sample changes.

    Args:
        original, new: (N, 2) and (M, 2) fp32, from the same second on.
        made: The stretch, in tokens.
        bounds: (T, 2) first and last second of each token.
        rate: Samples a second.
    """
    first, last = seconds_of(made, bounds)
    start = round(first * rate)
    stop = len(original) if made.stop == len(bounds) else min(round(last * rate), len(original))
    share = np.zeros((len(original), 1), np.float32)  # of the new sound's power
    share[start:stop] = 1
    fade = min(round(CROSSFADE * rate), (stop - start) // 2)
    rise = np.sin((np.arange(fade, dtype=np.float32)[:, None] + 0.5) / max(fade, 1) * (np.pi / 2)) ** 2
    if made.start > 0:
        share[start : start + fade] = rise
    if made.stop < len(bounds):
        share[stop - fade : stop] = rise[::-1]
    blend = original * np.sqrt(1 - share) + _fitted(new, len(original)) * np.sqrt(share)
    return np.where(share == 0, original, blend)


def made_frames(job: Plan) -> range:
    """The frames of the result that are made, and not the given clip's."""
    made, step = made_of(job.settings, job.geometry), job.geometry.grid.frames
    if not made.video:
        return range(0)
    start, stop = max(0, made.video.start * step - (step - 1)), (made.video.stop - 1) * step + 1
    return range(start, min(stop, made.lead * step) if made.lead else stop)


def keeps_sound(job: Plan) -> bool:
    """Whether a part of the sound is given, which is never turned down."""
    settings = job.settings
    return not settings.makes_sound or settings.retake is not None or settings.extend is not None


def new_sound(job: Plan) -> tuple[float, float] | None:
    """From when to when the sound of a result was made anew, in seconds; None where all of it was, or nothing."""
    if job.settings.retake is None and job.settings.extend is None:
        return None
    made = made_of(job.settings, job.geometry).audio
    if not made:
        return None
    start, stop = seconds_of(made, audio_bounds(job.geometry))
    stop = min(stop, shown_frames(job) / job.settings.frame_rate)
    return (start, stop) if stop - start >= _HEARD else None


def measured(clip: Decoded, job: Plan) -> Measurement:
    """What the voice does; where a stretch of it was made anew, in that stretch."""
    wave, span = clip.waveform, new_sound(job)
    if span is not None:
        wave = wave[round(span[0] * clip.rate) : round(span[1] * clip.rate)]
    return measure(wave, clip.rate)


def finished(clip: Decoded, job: Plan) -> Decoded:
    """A clip as it is written: with headroom, unless a part of its sound is given."""
    return clip if keeps_sound(job) else turned_down(clip)


def span_notes(job: Plan) -> list[str]:
    """When what is made anew of a run, by whole tokens."""
    settings, geometry = job.settings, job.geometry
    if settings.revoice is not None:
        sigmas = job.stages[0].sigmas
        level = level_of(settings.revoice, sigmas)
        steps = sum(1 for sigma in sigmas[:-1] if sigma <= level)
        return [f"The sound is made again from noise level {level:.2f}, in {steps} of {len(sigmas) - 1} steps."]
    if settings.retake is None and settings.extend is None:
        return []
    made, parts = made_of(settings, geometry), []
    whole = shown_frames(job) / settings.frame_rate
    for name, span, bounds in (
        ("picture", made.video, video_bounds(geometry)), ("sound", made.audio, audio_bounds(geometry)),
    ):  # fmt: skip
        if span:
            start, stop = seconds_of(span, bounds)
            if name == "picture" and made.lead:
                stop = made.lead * geometry.grid.frames / geometry.frame_rate
            parts.append(f"the {name} from {start:.2f} to {min(stop, whole):.2f} s")
    return [f"Made anew, in whole tokens: {', '.join(parts)} of {whole:.2f} s.", *_kept_notes(job, made)]


def _kept_notes(job: Plan, made: Made) -> list[str]:
    """How what is kept comes into the file."""
    video = job.settings.video
    assert video is not None
    sound = probe(video)
    notes = []
    if not made.video:
        notes.append("The picture is copied as it is.")
    elif len(made_frames(job)) < shown_frames(job):
        notes.append(f"The rest of the picture is {_seen(video, job)}, and encoded again (H.264, CRF 18).")
    if sound.rate is None:
        return notes
    if not made.audio and copies_sound(video):
        notes.append("The sound is copied as it is.")
    elif not made.audio or _leaves(seconds_of(made.audio, audio_bounds(job.geometry)), job):
        mixed = f" of its {sound.channels} channels mixed down to two" if (sound.channels or 0) > 2 else ""
        rest = "The rest of the sound" if made.audio else "The sound"
        notes.append(f"{rest} is kept sample by sample{mixed}, and encoded again (AAC).")
    return notes


def _seen(video: str, job: Plan) -> str:
    """What becomes of a clip's frames before they are encoded: what the model's sizes and the run's rate ask for."""
    settings, clip, rate = job.settings, describe_picture(video), probe(video).fps
    changes = []
    if (clip.width, clip.height) != (settings.width, settings.height):
        cut = " and cropped" if clip.width * settings.height != clip.height * settings.width else ""
        changes.append(f"scaled{cut} from {clip.width}x{clip.height} to {settings.width}x{settings.height}")
    if rate is not None and abs(float(rate) - settings.frame_rate) > 0.01:
        changes.append(f"shown at {settings.frame_rate:g} frames a second in place of {float(rate):g}")
    return " and ".join(changes) or "kept frame by frame"


def _leaves(span: tuple[float, float], job: Plan) -> bool:
    """Whether a stretch of time leaves something of the result."""
    return span[0] > 0 or span[1] < shown_frames(job) / job.settings.frame_rate


def _frames(chunks: Iterator[np.ndarray], job: Plan, material: Material) -> Iterator[np.ndarray]:
    settings, new, at = job.settings, made_frames(job), 0
    assert material.frames is not None
    original = material.frames(settings.width, settings.height)
    lead = made_of(settings, job.geometry).lead * job.geometry.grid.frames
    left = shown_frames(job)
    for made in chunks:
        chunk = np.array(made[:left])
        for index in range(len(chunk)):
            if at + index not in new:
                chunk[index] = original[at + index - lead]
        at, left = at + len(chunk), left - len(chunk)
        if len(chunk):  # a clip may end before the last latent frame does
            yield chunk


def _fitted(wave: np.ndarray, samples: int) -> np.ndarray:
    return np.pad(wave[:samples], ((0, max(0, samples - len(wave))), (0, 0)))
