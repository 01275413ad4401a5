"""A look, and a listen, at a clip while it is denoised: what a step predicts, in files that the next one replaces."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import write_wav
from mlx_ltxw.media.spectrogram import write_png
from mlx_ltxw.pipeline.decode import decode_audio, decode_video
from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.takes.events import Note, Previewed, TakeEvent, Written
from mlx_ltxw.takes.headroom import with_headroom
from mlx_ltxw.takes.output import Output

LARGEST = 256
"""Pixels of a preview's longer side."""


def with_previews(
    events: Iterator[TakeEvent], job: Plan, output: Output, networks: Networks
) -> Generator[TakeEvent, None, None]:
    """The events of a run, with a `Previewed` after every so many steps, but for the last one of a clip.

    The files, `NAME.preview.png` and `NAME.preview.wav`, are gone when the clip is written. A sound that took longer to
    decode than its step is left out from then on; one that cannot be written is the last, and ends no run.

    Args:
        events: Of the run; closed with this.
        job: From `fit`.
        output: Names the files, and how many steps lie between two previews.
        networks: Of the run, for the decoders.
    """
    slow, ended = not output.preview_sound, False
    for event in events:
        yield event
        if isinstance(event, Written):
            for path in output.previews():
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        if ended or not isinstance(event, Step) or event.index % output.preview or event.index == event.total:
            continue
        try:
            files, slow = _write(event, job, output, networks, slow)
        except UserError as error:  # a full disk; the clip itself has time until it is written
            ended = True
            yield Note(f"No more previews are made: {error.message}")
            continue
        if files:
            yield Previewed(event.seed, event.index, event.total, files)


def _write(step: Step, job: Plan, output: Output, networks: Networks, slow: bool) -> tuple[tuple[Path, ...], bool]:
    """The files that are written, and whether the sound is left out from then on.

    Raises:
        UserError: one cannot be written.
    """
    picture, sound = output.previews()
    files = [_write_picture(picture, step, job, networks)] if step.clean.video is not None else []
    if not slow:
        clock = time.perf_counter()
        waveform, rate = decode_audio(networks, step.clean.sound[:1])
        write_wav(sound, with_headroom(waveform, rate), rate)
        slow = bool(files) and time.perf_counter() - clock > step.seconds
        files.append(sound)
    return tuple(files), slow


def _write_picture(path: Path, step: Step, job: Plan, networks: Networks) -> Path:
    """The first frame, made small."""
    tokens = step.clean.video
    assert tokens is not None
    geometry = next(stage.geometry for stage in job.stages if stage.geometry.video_tokens == tokens.shape[1])
    one = dataclasses.replace(geometry, frames=1)
    frames = next(decode_video(networks, tokens[:, : one.video_tokens], one))
    small = -(-max(frames.shape[1:3]) // LARGEST)
    write_png(path, np.ascontiguousarray(frames[0, ::small, ::small]))
    return path
