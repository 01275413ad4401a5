"""What only a GPU shows: float32 sound against the CPU, and takes and training beside streamed blocks.

    python -m scripts.device_checks [--only sound]

The audio autoencoder and the vocoder, of the built-in model and at full size with random weights, in float32 (without
TF32) and bfloat16: seconds and bytes beyond the weights for 1, 4 and 20 s of sound, and for 1 s in float32 the relative
error against MLX's CPU backend. Then the built-in model with takes, and in training, its blocks in memory and streamed:
equal or not. Prints one JSON object a line.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx
import numpy as np

from mlx_ltxw.machine import settle
from mlx_ltxw.models.audio_vae import AudioVAE, AudioVAEConfig, VocoderConfig, VocoderWithBWE
from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.train.loop import Trainer
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import RESIDENT, STREAMED, Residency
from scripts.made_sizes import SIZES, configuration
from scripts.random_model import fill_randomly, relative_error, report

TOKENS = (26, 101, 501)
"""About 1, 4 and 20 s."""
PROMPT = 'a woman, (woman, whispering): "close your eyes"'
CHECKS = ("sound", "takes", "training")


def sound(name: str, vae: AudioVAE, vocoder: VocoderWithBWE, dtype: mx.Dtype) -> None:
    """Decoding on the default device, its two networks one after the other, and the shortest on the CPU."""
    for count in TOKENS:
        tokens = mx.random.normal((1, count, vae.config.features), key=mx.random.key(0))
        mel, seconds, peak = measured(partial(vae.decode, tokens))
        report(what="spectrum", model=name, dtype=str(dtype), tokens=count, seconds=seconds, beyond_gb=peak)
        waveform, seconds, peak = measured(partial(vocoder, mel))
        report(what="vocoder", model=name, dtype=str(dtype), tokens=count, seconds=seconds, beyond_gb=peak)
        if dtype != mx.float32 or count != TOKENS[0]:
            continue
        with on(mx.cpu):
            spectrum = vae.decode(tokens)
            mx.eval(spectrum)
            there = vocoder(mel)
            moved = vocoder(mel * (1 + 1e-7 * mx.random.normal(mel.shape, key=mx.random.key(1))))
            mx.eval(there, moved)
        report(
            what="error to the CPU", model=name, spectrum=relative_error(np.array(mel), np.array(spectrum)),
            vocoder=relative_error(np.array(waveform), np.array(there)),
            of_a_spectrum_moved_by_1e_7=relative_error(np.array(moved), np.array(there)),
        )  # fmt: skip


def measured(call: Callable[[], mx.array]) -> tuple[mx.array, float, float]:
    """What a second call gives, its seconds, and GB beyond what was held before it."""
    mx.eval(call())
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    clock = time.perf_counter()
    made = call()
    mx.eval(made)
    return made, round(time.perf_counter() - clock, 3), round((mx.get_peak_memory() - before) / 1e9, 3)


@contextmanager
def on(device: mx.DeviceType) -> Iterator[None]:
    """Another default device for a while."""
    default = mx.default_device()
    mx.set_default_device(mx.Device(device))
    try:
        yield
    finally:
        mx.set_default_device(default)


def sounds(size: str) -> None:
    """Of the built-in model, and of random weights."""
    for dtype in (mx.float32, mx.bfloat16):
        networks = Networks(ModelDir.open(BUILTIN_MODEL), dtype)
        sound("built-in", networks.audio_vae(), networks.vocoder(), dtype)
    config, _ = configuration(size, {})
    vae, vocoder = (
        AudioVAE(AudioVAEConfig.read(config["audio_vae"])),
        VocoderWithBWE(VocoderConfig.read(config["vocoder"])),
    )
    for dtype in (mx.float32, mx.bfloat16):
        fill_randomly(vae, dtype)
        fill_randomly(vocoder, dtype)
        sound(size, vae, vocoder, dtype)


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
@click.option("--only", "checks", type=click.Choice(CHECKS), multiple=True, default=CHECKS)
@click.option("--size", type=click.Choice(SIZES), default="22b", help="Of the random networks.")
def main(checks: tuple[str, ...], size: str) -> None:
    """Checks what only a GPU shows."""
    settle()
    if "sound" in checks:
        sounds(size)
    if "takes" in checks:
        takes()
    if "training" in checks:
        training()


if __name__ == "__main__":
    main()
