"""What only a GPU shows: float32 sound against the CPU, and takes beside streamed blocks.

    python -m scripts.device_checks --model MODEL

The audio autoencoder and vocoder in float32 without TF32, for 4 and 20 s of sound: seconds, peak, and for 4 s the
relative error against MLX's CPU backend. Then the built-in model with takes, and in training, its blocks in memory and
streamed: equal or not. Prints one JSON object a line.
"""

from __future__ import annotations

import dataclasses
import importlib
import tempfile
import time
from pathlib import Path
from typing import Any

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx
import numpy as np

from mlx_ltxw.machine import settle
from mlx_ltxw.pipeline.decode import decode_audio
from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.train.loop import Trainer
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import RESIDENT, STREAMED, Residency
from scripts.random_model import relative_error, report

TOKENS = (101, 501)
"""About 4 and 20 s."""
PROMPT = 'a woman, (woman, whispering): "close your eyes"'


def sound(path: Path, on_cpu: bool) -> None:
    """Decoding in float32, on the default device and, of the shorter, on the CPU."""
    networks = Networks(ModelDir.open(path), mx.float32)
    channels = networks.model.network_config("transformer").audio.in_channels
    for count in TOKENS:
        tokens = mx.random.normal((1, count, channels), key=mx.random.key(0))
        mx.eval(tokens)
        mx.reset_peak_memory()
        clock = time.perf_counter()
        made, rate = decode_audio(networks, tokens)
        took, peak, error = time.perf_counter() - clock, mx.get_peak_memory(), None
        if on_cpu and count == TOKENS[0]:
            with mx.stream(mx.cpu):
                default = mx.default_device()
                mx.set_default_device(mx.cpu)
                error = relative_error(made, decode_audio(networks, tokens)[0])
                mx.set_default_device(default)
        report(
            what="float32 sound", model=path.name, clip_seconds=round(len(made) / rate, 2), seconds=round(took, 2),
            peak_gb=round(peak / 1e9, 3), error_to_cpu=error,
        )  # fmt: skip


def spectrum(path: Path) -> None:
    """The audio autoencoder alone, in float32: what the vocoder of a random model does with small differences is its
    own affair."""
    networks = Networks(ModelDir.open(path), mx.float32)
    channels = networks.model.network_config("transformer").audio.in_channels
    tokens = mx.random.normal((1, TOKENS[0], channels), key=mx.random.key(0))
    mx.eval(tokens)
    default, made = mx.default_device(), []
    for device in (default, mx.cpu):
        mx.set_default_device(device)
        made.append(np.array(networks.audio_vae().decode(tokens)))
    mx.set_default_device(default)
    report(what="float32 spectrum", model=path.name, error_to_cpu=relative_error(*made))


def training() -> None:
    """Three steps of the built-in model, its base in memory and streamed."""
    model, made = ModelDir.open(BUILTIN_MODEL), []
    job: Any = importlib.import_module("tests.train.driver").job
    with tempfile.TemporaryDirectory() as folder:
        for name, residency in (("whole", RESIDENT), ("streamed", Residency(0, audio_stays=True))):
            task = job(model.path, Path(folder) / name, ["steps=9", "learning_rate=1e-2", "batch_size=2"])
            trainer = Trainer(dataclasses.replace(task, residency=residency))
            for _ in range(3):
                trainer.step(False)
            made.append(np.array(trainer.state.parameters))
    report(what="training", numbers=made[0].size, equal=bool(np.array_equal(made[0], made[1])))


def takes() -> None:
    """Takes of the built-in model, its blocks in memory and streamed."""
    model = ModelDir.open(BUILTIN_MODEL)
    request = Request(
        PROMPT, seeds=(1,), steps=2, frames=97, adapters=("whisper",), takes=("seed=+1", "adapter=whisper:0.5")
    )
    first: list[np.ndarray] = []
    for residency in (RESIDENT, STREAMED, Residency(3)):
        job = plan(request, model)
        clock = time.perf_counter()
        last = [e for e in run(job, Networks(model, job.dtype, residency=residency)) if isinstance(e, Step)][-1].latents
        streams = [np.array(x.astype(mx.float32)) for x in (last.video, last.audio, last.adapted) if x is not None]
        first = first or streams
        equal = all(np.array_equal(a, b) for a, b in zip(streams, first, strict=True))
        seconds = round(time.perf_counter() - clock, 2)
        report(what="takes", blocks_in_memory=residency.layers, seconds=seconds, streams=len(streams), equal=equal)


@click.command()
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="For the sound, beside the built-in one.")
@click.option("--cpu/--no-cpu", default=True, help="Whether to compare with the CPU.")
def main(model: Path | None, cpu: bool) -> None:
    """Checks what only a GPU shows."""
    settle()
    sound(BUILTIN_MODEL, cpu)
    takes()
    training()
    if model:
        spectrum(model)
        sound(model, on_cpu=False)


if __name__ == "__main__":
    main()
