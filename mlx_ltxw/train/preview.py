"""Listening samples: the adapter as it is, through the very pipeline of `generate`, always from the same noise."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.adapter.streamed import on_demand
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text, write_bytes, write_errors
from mlx_ltxw.machine import Parts, limits, this_machine
from mlx_ltxw.media.measure import Measurement
from mlx_ltxw.models.transformer import Transformer
from mlx_ltxw.parsing import build, parse_json
from mlx_ltxw.pipeline.budget import Budget
from mlx_ltxw.pipeline.events import Decoded, Step
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan, plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.prompts.registers import parse
from mlx_ltxw.takes.events import Decoding, Suspect, Written
from mlx_ltxw.takes.make import written
from mlx_ltxw.takes.record import sample_record
from mlx_ltxw.takes.write import write_files
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.weights.dtype import default_dtype, name_of
from mlx_ltxw.weights.manifest import sha256 as hash_of
from mlx_ltxw.weights.model_dir import ModelDir

INDEX = "samples.json"
_FOLDER = re.compile(r"step-(\d{6,18})")
_MOST_PROMPTS = 4


@dataclass(frozen=True)
class Sampling:
    """A listening sample is on its way.

    Attributes:
        step: Steps that the adapter has been trained for; 0 is the base.
        number, samples: Which of how many, from 1.
        done, total: Denoising steps.
    """

    step: int
    number: int
    samples: int
    done: int
    total: int

    def __str__(self) -> str:
        whose = f"step {self.step}" if self.step else "the base model"
        return f"sample {self.number} of {self.samples} of {whose} · denoising {self.done}/{self.total}"


@dataclass(frozen=True)
class Sample:
    """One listening sample.

    Attributes:
        step: Of the adapter; 0 is the base model.
        prompt: What was asked for.
        wav, picture: Names of its files, beside the index.
        register: As measured; `no speech`, or `mixed`.
        lufs, voiced: Loudness, and the voiced share of the speech.
    """

    step: int
    prompt: str
    wav: str
    picture: str
    register: str
    lufs: float
    voiced: float


@dataclass(frozen=True)
class SuspectSample:
    """Something is wrong with a listening sample, which is written all the same.

    Attributes:
        step, number, samples: As `Sampling` has them.
        notes: What.
    """

    step: int
    number: int
    samples: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        whose = f"step {self.step}" if self.step else "the base model"
        return f"Warning: sample {self.number} of {self.samples} of {whose}: {' '.join(self.notes)}"


def choose_prompts(captions: Sequence[str], config: TrainConfig) -> list[str]:
    """The prompts asked for, or the first caption of each speaker and manner, four at most."""
    if config.preview_prompts:
        return list(config.preview_prompts)
    chosen: dict[tuple[str, str], str] = {}
    for caption in captions:
        turns = parse(caption).turns
        kind = (turns[0].speaker, turns[0].manner) if turns else ("", "")
        chosen.setdefault(kind, caption)
    return list(chosen.values())[:_MOST_PROMPTS]


def samples_folder(run_folder: Path, step: int) -> Path:
    """Where the samples of a step lie."""
    return run_folder / "samples" / f"step-{step:06d}"


def make_samples(
    run_folder: Path,
    step: int,
    adapter: Path | None,
    prompts: Sequence[str],
    networks: Networks,
    transformer: Transformer,
    config: TrainConfig,
) -> Generator[Sampling | SuspectSample, None, list[Sample]]:
    """Makes the samples of a step, or reads them when they were made before.

    Closing it leaves no sample half-written; they are made anew the next time.

    Args:
        run_folder: The run's folder, which holds `samples/`.
        step: Steps that the adapter has been trained for; 0 is the base.
        adapter: Its file; None for the base model alone.
        prompts: One sample each.
        networks: From `encoded`.
        transformer: The base's, in memory.
        config: Of the run: sizes, seed, denoising steps.

    Raises:
        UserError: a prompt that the model cannot read, or a folder that cannot be written.
    """
    folder = samples_folder(run_folder, step)
    made_of = _made_of(adapter, prompts, config)
    if (known := _read_index(folder, step)).samples and known.made_of == made_of:
        return list(known.samples)
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lent = networks.lent(on_demand(transformer))
    samples = []
    for number, prompt in enumerate(prompts, start=1):
        job = plan(_request(prompt, adapter, not transformer.with_video, config), networks.model)
        job = dataclasses.replace(job, budget=job.budget.beside_transformer())
        yield Sampling(step, number, len(prompts), 0, job.steps)
        samples.append((yield from _make(job, lent, folder, step, number, len(prompts))))
    index = {"made_of": made_of, "samples": [asdict(sample) for sample in samples]}
    write_bytes(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False).encode())
    return samples


def encoded(prompts: Sequence[str], model: ModelDir, audio_only: bool, config: TrainConfig) -> Networks:
    """Networks that know the contexts of all samples' prompts: what encodes them is gone before the base comes.

    Args:
        prompts: One sample each.
        model: The base.
        audio_only: Whether samples have no picture.
        config: Of the run.

    Raises:
        UserError: a prompt that the model cannot read.
    """
    networks = Networks(model, default_dtype())
    with limits(this_machine()) as parts:
        for prompt in prompts:
            job = plan(_request(prompt, None, audio_only, config), model)
            networks.begins = _begins(parts, job.budget)
            networks.contexts(job.prompts, job.cache)
    return networks


def _begins(parts: Parts, budget: Budget) -> Callable[[str], None]:
    return lambda name: parts.begin(name, *budget.part(name))


def _request(prompt: str, adapter: Path | None, audio_only: bool, config: TrainConfig) -> Request:
    return Request(
        prompt=prompt, seeds=(config.preview_seed,), width=config.width, height=config.height,
        frames=config.frames, frame_rate=config.frame_rate, steps=config.preview_steps,
        audio_only=audio_only, adapters=(str(adapter),) if adapter else (), dtype=name_of(default_dtype()),
    )  # fmt: skip


def _made_of(adapter: Path | None, prompts: Sequence[str], config: TrainConfig) -> dict[str, Any]:
    """What decides how samples sound."""
    names = ("width", "height", "frames", "frame_rate", "preview_steps", "preview_seed")
    digest = hash_of(adapter).sha256 if adapter else None
    return {name: getattr(config, name) for name in names} | {"adapter": digest, "prompts": list(prompts)}


def _make(
    job: Plan, networks: Networks, folder: Path, step: int, number: int, count: int
) -> Generator[Sampling | SuspectSample, None, Sample]:
    names = _names(number)
    paths = [folder / name for name in names]
    figures: Measurement | None = None

    def write(clip: Decoded, job: Plan) -> Iterator[Decoding | Suspect]:
        return write_files(paths, clip, job.settings, sample_record(job, clip.seed, step))

    for event in written(job, write, networks=networks):
        if isinstance(event, Step):
            yield Sampling(step, number, count, event.index, event.total)
        elif isinstance(event, Suspect):
            yield SuspectSample(step, number, count, event.notes)
        elif isinstance(event, Written):
            figures = event.measurement
    assert figures is not None
    return Sample(step, job.settings.prompt, *names, figures.register, figures.lufs, figures.voiced)


def all_samples(run_folder: Path) -> list[Sample]:
    """Every sample of a run, by step."""
    names = [_FOLDER.fullmatch(path.name) for path in (run_folder / "samples").glob("step-*")]
    steps = sorted(int(name[1]) for name in names if name)
    return [sample for step in steps for sample in _read_index(samples_folder(run_folder, step), step).samples]


@dataclass(frozen=True)
class _Index:
    """`samples.json`: what the samples of a step were made of, and what they are."""

    made_of: dict[str, Any]
    samples: tuple[Sample, ...]


def _read_index(folder: Path, step: int) -> _Index:
    """What the samples of a step are; empty when they are not all there, so that they are made again."""
    file = folder / INDEX
    nothing = _Index({}, ())
    if not file.is_file():
        return nothing
    try:
        index = build(_Index, parse_json(read_text(file), str(file)), str(file))
    except UserError:
        return nothing
    for number, sample in enumerate(index.samples, start=1):
        names = sample.wav, sample.picture
        if sample.step != step or names != _names(number) or not all((folder / name).is_file() for name in names):
            return nothing
    return index


def _names(number: int) -> tuple[str, str]:
    return f"{number}.wav", f"{number}.png"
