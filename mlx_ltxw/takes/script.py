"""A script: one clip a part, each of one register, cut together with short crossfades.

Parts are kept in a folder beside the output until it is written, by a name that holds everything that made them, so a
run that was cut goes on where it stopped, and a changed part is made anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mlx_ltxw.adapter.strength import parse_adapter
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import check_writable, locked_folder
from mlx_ltxw.machine import peak_memory
from mlx_ltxw.media.audio import read_audio, write_wav
from mlx_ltxw.media.join import join_frames, join_waveforms
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.media.mp4 import AUDIO_RATE, open_mp4
from mlx_ltxw.media.video import read_video
from mlx_ltxw.pipeline.given import images_of
from mlx_ltxw.pipeline.plan import Plan, latent_grid, plan
from mlx_ltxw.pipeline.recipes import lora_source
from mlx_ltxw.pipeline.request import Request, Settings
from mlx_ltxw.pipeline.resolve import draw_seeds, drawn_before
from mlx_ltxw.prompts.script import Part
from mlx_ltxw.takes.drawn import drew, keeping_seeds, seeds_kept
from mlx_ltxw.takes.events import PartBegun, TakeEvent, Written
from mlx_ltxw.takes.headroom import with_headroom
from mlx_ltxw.takes.make import Writer, fit, written
from mlx_ltxw.takes.output import Output
from mlx_ltxw.takes.record import adapter_hashes, read_record, script_record, sha256_of
from mlx_ltxw.takes.unfinished import ENDING, Unfinished
from mlx_ltxw.takes.write import write_lossless
from mlx_ltxw.weights.model_dir import ModelDir

CROSSFADE = 0.1
"""Seconds that neighbouring parts share."""

PartsMaker = Callable[[Sequence[tuple[int, Path]]], Generator[TakeEvent, None, None]]
"""Makes parts: their numbers, from 0, and the files of their sounds."""

_OURS = re.compile(rf"\d{{3}}-[0-9a-f]{{16}}\.(wav({re.escape(ENDING)})?|mp4)")


def part_requests(parts: Sequence[Part], request: Request, model: ModelDir) -> list[Request]:
    """What each part of a script asks for.

    Args:
        parts: From `read_script`.
        request: What all share; its prompt is not used.
        model: Makes them.

    Raises:
        UserError: what a script cannot have, or a part that cannot be.
    """
    if request.takes:
        raise UserError("A script has one sound.", "Leave {field:takes} out with {field:script}.")
    _check_new(request)
    shared = dataclasses.replace(request, seeds=draw_seeds(request.seeds))
    return [_part_request(shared, part, model) for part in parts]


def plan_parts(
    requests: Sequence[Request], model: ModelDir, memory: int | None = None, output: Output | None = None
) -> list[Plan]:
    """The parts as runs, of one seed each.

    Args:
        requests: One a part.
        model, memory: As for `fit`.
        output: Where the whole goes: seeds that may be any are those of its own run that was cut, which then goes on.

    Raises:
        UserError: a part cannot be made.
    """
    jobs = [fit(request, model, memory) for request in requests]
    if output is None or not output.resume or not any(map(drew, jobs)):
        return jobs
    drawn = [
        drawn_before(dataclasses.replace(request, seeds=job.settings.seeds), (seed,))
        for request, job, seed in zip(requests, jobs, seeds_kept(parts_folder(output)), strict=False)
    ]
    before = [fit(request, model, memory) for request in drawn if request is not None]
    again = len(before) == len(jobs) and any(_is_begun(parts_folder(output), job) for job in before if drew(job))
    return before if again else jobs


def check_parts(jobs: Sequence[Plan], output: Output, again: Collection[int] = ()) -> None:
    """Refuses before any work what cannot be written, and parts that are not there.

    Raises:
        UserError: as it says.
    """
    first = jobs[0].settings
    output.check(first, _written_before(jobs, output))
    for number, job in enumerate(jobs, 1):
        settings = job.settings
        _check_new(settings)
        for name in ("width", "height", "frame_rate", "audio_only"):
            if getattr(settings, name) != getattr(first, name):
                raise UserError(
                    f"Part {number} differs from the first in {name}.", f"Give one {{field:{name}}} for all."
                )
    for number in again:
        if not 1 <= number <= len(jobs):
            raise UserError(f"There is no part {number}.", f"The script has parts 1 to {len(jobs)}.")


def make_script(
    jobs: Sequence[Plan], output: Output, *, keep: bool = False, again: Collection[int] = (),
    made_by: PartsMaker | None = None,
) -> Iterator[TakeEvent]:  # fmt: skip
    """Makes every part that is not there yet, then the whole.

    Args:
        jobs: One a part, from `plan_parts`.
        output: The whole's files.
        keep: Whether the parts stay when the whole is written.
        again: Numbers, from 1, of parts that are made again though they are there.
        made_by: Makes the parts; by default one after another, here.

    Raises:
        UserError: a file cannot be written, or is there and may not be replaced.
    """
    check_parts(jobs, output, again)
    folder = parts_folder(output)
    names = output.names(jobs[0].settings, jobs[0].settings.seeds[0])
    try:
        with locked_folder(folder, "script"), keeping_seeds(jobs, folder):
            files = yield from _make_parts(jobs, folder, output, again, made_by)
            _join(jobs, files, names)
            if not keep:
                _clear(folder)
    finally:
        with suppress(OSError):  # parts are there, or what somebody keeps
            folder.rmdir()
    yield Written(jobs[0].settings.seeds[0], tuple(names), None, peak_memory())


def _make_parts(
    jobs: Sequence[Plan], folder: Path, output: Output, again: Collection[int], made_by: PartsMaker | None
) -> Generator[TakeEvent, None, list[Path]]:
    """Makes the parts that are not there; returns the sounds' files."""
    check_writable(folder / "part")
    files, left = [], []
    for number, job in enumerate(jobs, 1):
        path, kept = _part_file(folder, number, job)
        kept = kept and (number not in again or drew(job))  # with a seed that was drawn, this very run made it
        yield PartBegun(number, len(jobs), job.settings.prompt, job.settings.seeds[0], kept)
        if not kept and made_by is None:
            yield from make_part(job, path, output.resume)
        elif not kept:
            left.append((number - 1, path))
        files.append(path)
    if made_by is not None:
        yield from made_by(left)
    return files


def _written_before(jobs: Sequence[Plan], output: Output) -> set[Path]:
    """Some of the whole's files, which a run of this very script wrote before it was cut; its parts are still there."""
    main, *beside = output.names(jobs[0].settings, jobs[0].settings.seeds[0])
    folder = parts_folder(output)
    with suppress(UserError):  # the main one is missing, or holds no record
        if folder.is_dir() and (seeds_kept(folder) or not all(path.exists() for path in beside)):
            ours = read_metadata(main) == json.loads(json.dumps(script_record(jobs)))
            return {main, *beside} if ours else set()
    return set()


def parts_folder(output: Output) -> Path:
    """Where a script's parts are until the whole is written."""
    return output.path.with_name(output.path.name + ".parts")


def make_part(job: Plan, path: Path, resume: bool) -> Generator[TakeEvent, None, None]:
    """Makes one part.

    Args:
        job: From `plan_parts`.
        path: Of its sound; the picture goes beside it.
        resume: Whether one that was cut goes on.
    """
    unfinished = Unfinished(path, job, resume)
    events = written(
        job, _writer(path), finish=lambda clip, _: clip, progress=unfinished.progress
    )  # the whole is turned down, not each part
    yield from unfinished.following(events)


def part_file(folder: Path, number: int, job: Plan) -> Path:
    """Where a part's sound goes, in a folder that has none yet."""
    return _part_file(folder, number, job)[0]


def with_new_parts(requests: Sequence[Request], path: Path, again: Collection[int], seed: int) -> list[Request]:
    """The requests of a script's parts, some of them with another seed; the others keep the seed they had in `path`.

    Args:
        requests: From `part_requests`.
        path: The whole as it was made before.
        again: Numbers, from 1, of the parts to be made anew.
        seed: Theirs.

    Raises:
        UserError: `path` is no script of so many parts.
    """
    before = read_record(path).requests
    if len(before) != len(requests):
        raise UserError(f"{path} was made of {len(before)} parts, not {len(requests)}.", "Leave {field:parts} out.")
    seeds = draw_seeds((seed,))
    return [
        dataclasses.replace(request, seeds=seeds if number in again else earlier.seeds)
        for number, (request, earlier) in enumerate(zip(requests, before, strict=True), 1)
    ]


def _is_begun(folder: Path, job: Plan) -> bool:
    path, kept = _part_file(folder, 0, job)
    return kept or any(folder.glob(f"*{path.name.removeprefix('000')}{ENDING}"))


def _check_new(asked: Request | Settings) -> None:
    """Pictures may be given to a script, and go to each of its parts."""
    if asked.video is not None or asked.audio is not None or len(asked.seeds) != 1:
        raise UserError(
            "A script makes one new clip.", "Leave {field:video} and {field:audio} out, and give one of {field:seeds}."
        )


def _writer(path: Path) -> Writer:
    return lambda clip, job: write_lossless(path, clip, job.settings)


def _part_request(request: Request, part: Part, model: ModelDir) -> Request:
    changes: dict[str, Any] = {"prompt": part.prompt, "adapters": _adapters(request.adapters, part)}
    if not changes["adapters"]:
        changes["register_at"] = None
    if part.seed is not None:
        changes["seeds"] = draw_seeds((part.seed,))
    request = dataclasses.replace(request, **changes)
    if part.seconds is None:
        return request
    rate = request.frame_rate or plan(request, model).settings.frame_rate
    step = latent_grid(model).frames
    frames = max(1, round((part.seconds * rate - 1) / step)) * step + 1
    return dataclasses.replace(request, frames=frames, frame_rate=rate)


def _adapters(shared: tuple[str, ...], part: Part) -> tuple[str, ...]:
    """A part's own adapters, else those of all parts; a normal part has none unless it names one."""
    adapters = part.adapters if part.adapters is not None else () if part.normal else shared
    if part.strength is None:
        return adapters
    if not adapters:
        raise UserError(f"The part '{part.prompt}' has a strength and no adapter.", "Give it one, or leave it out.")
    return tuple(f"{parse_adapter(spec)[0]}:{part.strength}" for spec in adapters)


def _part_file(folder: Path, number: int, job: Plan) -> tuple[Path, bool]:
    """A part's sound, which is written last; and whether all of the part is there, under whatever number."""
    images = [[sha256_of(Path(one.file)), one.frame, one.strength] for one in images_of(job.settings)]
    settings = job.settings.to_dict() | {"adapters": _contents(job), "distilled_lora": None, "images": images}
    recipe = [settings, job.model.digest]
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    for path in sorted(folder.glob(f"*-{digest}.wav")):
        if _OURS.fullmatch(path.name) and (job.settings.audio_only or path.with_suffix(".mp4").exists()):
            return path, True
    return folder / f"{number:03d}-{digest}.wav", False


def _contents(job: Plan) -> list[list[str]]:
    """The adapters by what is in their files, each with its strength."""
    hashes = adapter_hashes(job)
    contents = [[hashes[spec], spec.removeprefix(parse_adapter(spec)[0])] for spec in job.settings.adapters]
    lora = job.settings.distilled_lora
    return [*contents, *([[hashes[lora], lora.removeprefix(lora_source(lora))]] if lora else [])]


def _clear(folder: Path) -> None:
    """Removes the parts; whatever else somebody keeps in the folder stays, and what the disk does not let go of."""
    for path in folder.glob("*"):
        if _OURS.fullmatch(path.name):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _join(jobs: Sequence[Plan], files: list[Path], names: list[Path]) -> None:
    """Cuts the parts together into the whole's files."""
    first, metadata = jobs[0].settings, script_record(jobs)
    lengths = [round(job.geometry.seconds * AUDIO_RATE) for job in jobs]
    waves = [_fitted(read_audio(file, AUDIO_RATE), length) for file, length in zip(files, lengths, strict=True)]
    overlap = round(CROSSFADE * first.frame_rate)
    sound = with_headroom(join_waveforms(waves, round(overlap / first.frame_rate * AUDIO_RATE)), AUDIO_RATE)
    for path in names:
        if path.suffix == ".png":
            from mlx_ltxw.media.drawing import write_spectrogram  # Pillow, when a picture is wanted

            write_spectrogram(path, sound, AUDIO_RATE)
        elif path.suffix.lower() == ".wav":
            write_wav(path, sound, AUDIO_RATE, metadata=metadata)
        else:
            with open_mp4(path, first.width, first.height, first.frame_rate, metadata=metadata) as clip:
                for frames in join_frames(_pictures(jobs, files), overlap):
                    clip.frames(frames)
                clip.audio(sound)


def _pictures(jobs: Sequence[Plan], files: list[Path]) -> Iterator[np.ndarray]:
    for job, file in zip(jobs, files, strict=True):
        settings = job.settings
        size = settings.frames, settings.frame_rate, settings.width, settings.height
        yield read_video(file.with_suffix(".mp4"), *size)


def _fitted(wave: np.ndarray, samples: int) -> np.ndarray:
    """Cut or padded to the picture's length, so that parts stay in step."""
    return np.pad(wave[:samples], ((0, max(0, samples - len(wave))), (0, 0)))
