"""Listening samples: the adapter as it is, through the very pipeline of `generate`, always from the same noise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.files import write_bytes, write_errors
from mlx_ltxw.media.audio import write_wav
from mlx_ltxw.media.measure import measure
from mlx_ltxw.media.spectrogram import write_spectrogram
from mlx_ltxw.models.transformer import Transformer
from mlx_ltxw.pipeline.events import Decoded
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import plan, run
from mlx_ltxw.prompts.registers import parse
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.tree import share
from mlx_ltxw.weights.model_dir import ModelDir

INDEX = "samples.json"
_MOST_PROMPTS = 4


@dataclass(frozen=True)
class Sample:
    """One listening sample.

    Attributes:
        step: Of the adapter; 0 is the base model.
        prompt: What was asked for.
        wav, picture: Names of its files, beside the index.
        register: As measured; None without speech.
        lufs, voiced: Loudness, and the voiced share of the speech.
    """

    step: int
    prompt: str
    wav: str
    picture: str
    register: str | None
    lufs: float
    voiced: float


@dataclass(frozen=True)
class ResidentModel(ModelDir):
    """The model on disk, but for the transformer, which is in memory already.

    Attributes:
        transformer: The base, in the dtype the pipeline uses.
    """

    transformer: Transformer | None = None

    def load(self, component: str, dtype: mx.Dtype | None = None, audio_only: bool = False) -> nn.Module:
        """As `ModelDir.load`; of the transformer in memory a clone, so that the pipeline's settings stay with it."""
        kept = self.transformer
        if component == "transformer" and kept is not None and kept.with_video != audio_only:
            return share(kept)
        return super().load(component, dtype, audio_only)


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


def folder_of(run_folder: Path, step: int) -> Path:
    """Where the samples of a step lie."""
    return run_folder / "samples" / f"step-{step:06d}"


def make_samples(
    run_folder: Path, step: int, adapter: Path | None, prompts: Sequence[str], model: ModelDir,
    transformer: Transformer, config: TrainConfig,
) -> list[Sample]:  # fmt: skip
    """Makes the samples of a step, or reads them when they were made before.

    Args:
        run_folder: Of the run.
        step: Of the adapter.
        adapter: Its file; None for the base model alone.
        prompts: One sample each.
        model: The base.
        transformer: The base's, in memory.
        config: Of the run: sizes, seed, denoising steps.

    Raises:
        UserError: a prompt that the model cannot read, or a folder that cannot be written.
    """
    folder = folder_of(run_folder, step)
    made_of = _made_of(adapter, prompts, config)
    if (known := _read_index(folder)).get("made_of") == made_of:
        return _samples(known)
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    resident = ResidentModel(model.path, model.config, model.files, transformer)
    samples = []
    for number, prompt in enumerate(prompts, start=1):
        request = Request(
            prompt=prompt, seeds=(config.preview_seed,), width=config.width, height=config.height,
            frames=config.frames, frame_rate=config.frame_rate, steps=config.preview_steps,
            audio_only=not transformer.with_video, adapters=(str(adapter),) if adapter else (),
        )  # fmt: skip
        samples += [
            _keep(event, request, folder, step, number)
            for event in run(plan(request, resident))
            if isinstance(event, Decoded)
        ]
    index = {"made_of": made_of, "samples": [asdict(sample) for sample in samples]}
    write_bytes(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False).encode())
    return samples


def _made_of(adapter: Path | None, prompts: Sequence[str], config: TrainConfig) -> dict[str, Any]:
    """What decides how samples sound."""
    names = ("width", "height", "frames", "frame_rate", "preview_steps", "preview_seed")
    digest = hashlib.sha256(adapter.read_bytes()).hexdigest() if adapter else None
    return {name: getattr(config, name) for name in names} | {"adapter": digest, "prompts": list(prompts)}


def _keep(clip: Decoded, request: Request, folder: Path, step: int, number: int) -> Sample:
    wav, picture = f"{number}.wav", f"{number}.png"
    metadata: dict[str, Any] = {"prompt": request.prompt, "training_step": step}
    write_wav(folder / wav, clip.waveform, clip.rate, metadata=metadata)
    write_spectrogram(folder / picture, clip.waveform, clip.rate)
    figures = measure(clip.waveform, clip.rate)
    return Sample(step, request.prompt, wav, picture, figures.register, figures.lufs, figures.voiced)


def all_samples(run_folder: Path) -> list[Sample]:
    """Every sample of a run, by step."""
    folders = sorted((run_folder / "samples").glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    return [sample for folder in folders for sample in _samples(_read_index(folder))]


def _read_index(folder: Path) -> dict[str, Any]:
    """What the samples of a step are; empty when they are not all there."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def _samples(index: dict[str, Any]) -> list[Sample]:
    return [Sample(**item) for item in index.get("samples", [])]
