"""`generate --script FILE`: one clip a part, each of one register, cut together with short crossfades.

Parts are kept in a folder beside the output until it is written, by a name that holds everything that made them, so a
run that was cut goes on where it stopped, and a changed part is made anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from mlx_ltxw import __version__
from mlx_ltxw.cli.output import Output, line, show
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import check_writable
from mlx_ltxw.media.audio import read_audio, write_wav
from mlx_ltxw.media.join import join_frames, join_waveforms
from mlx_ltxw.media.mp4 import AUDIO_RATE, open_mp4
from mlx_ltxw.media.video import read_video
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import Plan, latent_grid, plan, run
from mlx_ltxw.prompts.script import Part, read_script
from mlx_ltxw.weights.model_dir import ModelDir

CROSSFADE = 0.1
"""Seconds that neighbouring parts share."""


def run_script(path: Path, request: Request, model: ModelDir, output: Output) -> None:
    """Makes every part that is not there yet, then the whole.

    Raises:
        UserError: the script cannot be read or made, or the output cannot be written.
    """
    if request.video is not None or len(request.seeds) != 1:
        raise UserError("A script makes one new clip.", "Leave --video out, and give one --seed at most.")
    if output.wav or output.spectrogram:
        raise UserError("A script writes one file.", "Leave --wav and --spectrogram out.")
    jobs = [plan(_part_request(request, part, model), model) for part in read_script(path)]
    Output(output.path, False, False, output.as_json).check(jobs[0].settings)
    folder = output.path.with_name(output.path.name + ".parts")
    folder.mkdir(exist_ok=True)
    check_writable(folder / "part")
    files = [_make(job, number, len(jobs), folder, output) for number, job in enumerate(jobs, 1)]
    _join(jobs, files, output.path)
    shutil.rmtree(folder)
    if output.as_json:
        line(event="written", files=[str(output.path)])
    else:
        click.echo(output.path)


def _part_request(request: Request, part: Part, model: ModelDir) -> Request:
    if part.seconds is None:
        return dataclasses.replace(request, prompt=part.prompt)
    rate = request.frame_rate or plan(dataclasses.replace(request, prompt=part.prompt), model).settings.frame_rate
    step = latent_grid(model).frames
    frames = max(1, round((part.seconds * rate - 1) / step)) * step + 1
    return dataclasses.replace(request, prompt=part.prompt, frames=frames, frame_rate=rate)


def _make(job: Plan, number: int, total: int, folder: Path, output: Output) -> Path:
    """One part's clip without loss, made unless it is there."""
    recipe = json.dumps(job.settings.to_dict() | {"model": job.model.identity}, sort_keys=True)
    name = f"{number:03d}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    path = folder / f"{name}.wav"
    if not output.as_json:
        click.echo(f"part {number} of {total}{' (kept)' if path.exists() else ''}: {job.settings.prompt}", err=True)
    if not path.exists():
        show(run(job), job, PartOutput(path, False, False, output.as_json, output.told))
    return path


@dataclasses.dataclass(frozen=True)
class PartOutput(Output):
    """A part on its way into the whole: picture and sound without loss; the sound comes last and marks it complete."""

    def write(self, clip, job):  # type: ignore[no-untyped-def]
        settings = job.settings
        if clip.video is not None:
            with open_mp4(
                self.path.with_suffix(".mp4"), settings.width, settings.height, settings.frame_rate, sound=False,
                lossless=True,
            ) as file:  # fmt: skip
                for frames in clip.video:
                    file.frames(frames)
        write_wav(self.path, clip.waveform, clip.rate, subtype="FLOAT")
        return []  # nothing to tell of: a part's files go once the whole is there


def _join(jobs: list[Plan], files: list[Path], path: Path) -> None:
    first = jobs[0].settings
    metadata = {"script": [job.settings.to_dict() for job in jobs], "mlx_ltxw": __version__}
    lengths = [round(job.geometry.seconds * AUDIO_RATE) for job in jobs]
    waves = [_fitted(read_audio(file, AUDIO_RATE), length) for file, length in zip(files, lengths, strict=True)]
    overlap = round(CROSSFADE * first.frame_rate)
    sound = join_waveforms(waves, round(overlap / first.frame_rate * AUDIO_RATE))
    if path.suffix.lower() == ".wav":
        write_wav(path, sound, AUDIO_RATE, metadata=metadata)
        return
    with open_mp4(path, first.width, first.height, first.frame_rate, metadata=metadata) as clip:
        for frames in join_frames(_pictures(jobs, files), overlap):
            clip.frames(frames)
        clip.audio(sound)


def _pictures(jobs: list[Plan], files: list[Path]) -> Iterator[np.ndarray]:
    for job, file in zip(jobs, files, strict=True):
        settings = job.settings
        yield read_video(
            file.with_suffix(".mp4"), settings.frames, settings.frame_rate, settings.width, settings.height
        )


def _fitted(wave: np.ndarray, samples: int) -> np.ndarray:
    """Cut or padded to the picture's length, so that parts stay in step."""
    return np.pad(wave[:samples], ((0, max(0, samples - len(wave))), (0, 0)))
