"""What a training step of the whisper adapter costs under the lock and coupled, with random weights on one GPU.

Needs a GPU with 110 GB (with --batch 1: 80 GB) and no PyTorch. The 19B base in bf16, activations in fp32, as many clips
of 192x192 pixels, 97 frames, as training takes:

    python -m scripts.bench.train

Prints one JSON object a line: for every setting (decoupled, coupled; with and without gradient checkpointing) the
seconds of each timed step, their median and the least of them, and MLX's peak over the timed steps. `beyond_weights` is
that peak less the bytes of the base's parameters, and less nothing else: it holds the adapter, AdamW's moments and the
clip too (`kept`: what is allocated before the first step, less the base). A setting that runs out of memory is reported
as that. The last lines give decoupled over coupled, of the medians and of the least: a step of few clips waits for the
host, and on a host that others share the least is the steadier figure.

A step is the loop's own on a GPU: draw noise, loss and gradient, AdamW. Both modes draw the same numbers and the fresh
adapter changes nothing, so their first losses must agree.

To try it out on a CPU: --layers 4 --scale 8 --runs 2
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.adapter.apply import attach
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.convert.quantize import Quantization, in_blocks
from mlx_ltxw.models.packed import quantize
from mlx_ltxw.models.transformer import Transformer, TransformerConfig
from mlx_ltxw.pipeline.denoise import rotaries
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.gradient import optimizer
from mlx_ltxw.train.gradient.batches import noise_keys
from mlx_ltxw.train.gradient.fresh import fresh_adapter
from mlx_ltxw.train.gradient.layout import Layout
from mlx_ltxw.train.gradient.optimizer import State
from mlx_ltxw.train.gradient.step import DTYPES, Group, Objective
from mlx_ltxw.tree import size_of
from mlx_ltxw.weights.dtype import default_dtype
from scripts.bench.figures import Figure
from scripts.bench.setting import TEXT, Setting
from scripts.random_model import (
    GRID,
    begin,
    fill_randomly,
    median,
    model_options,
    read_sections,
    report,
    weight_bytes,
)


def build(config: TransformerConfig, bits: int, dtype: mx.Dtype) -> Transformer:
    """The base, the linears of its blocks quantised as `convert -q` does if `bits` is not 0."""
    base = Transformer(config)
    fill_randomly(base, dtype)
    if bits:
        how = Quantization.parse(str(bits))

        def predicate(path: str, layer: nn.Module) -> bool | dict[str, Any]:
            chosen = isinstance(layer, nn.Linear) and in_blocks("transformer", path, size_of(layer)[1], how)
            return dict(how.settings) if chosen else False

        quantize(base, predicate)
        mx.eval(base.parameters())
    base.eval()
    gc.collect()
    mx.clear_cache()
    return base


def make_group(base: Transformer, geometry: Geometry, config: TrainConfig, text_tokens: int) -> Group:
    """Clips of random latents and text, as `Batches` gives them; the contexts are kept in bf16, as on a GPU."""
    video, audio = base.config.video, base.config.audio
    video_rotary, audio_rotary = rotaries(base, geometry, DTYPES[config.activations])
    assert video_rotary is not None
    shapes = {
        "video": (geometry.video_tokens, video.in_channels),
        "audio": (geometry.audio_tokens, audio.in_channels),
        "video_context": (text_tokens, video.context_dim),
        "audio_context": (text_tokens, audio.context_dim),
    }
    arrays = {
        name: mx.random.normal((config.batch_size, *shape), key=mx.random.key(index)).astype(
            mx.bfloat16 if name.endswith("context") else mx.float32
        )
        for index, (name, shape) in enumerate(shapes.items())
    }
    keys = mx.array(noise_keys(config.seed, 0, config.batch_size))
    group = Group(**arrays, keys=keys, video_rotary=video_rotary, audio_rotary=audio_rotary)
    mx.eval(group)
    return group


def steps(base: Transformer, group: Group, config: TrainConfig) -> Iterator[dict[str, float]]:
    """Optimizer steps without end, as the training loop takes them on a GPU; each gives its figures once it is done."""
    layout, parameters = Layout.of(fresh_adapter(base, config))
    adapter = layout.adapter(parameters, "new")
    objective = Objective(base, attach(base, [(adapter, Strength())]), layout, config)
    state, weight = State.fresh(parameters), mx.array(1 / config.clips_per_step)
    del adapter, parameters
    mx.eval(state.parameters, state.first, state.second)
    yield {"kept": mx.get_active_memory()}
    while True:
        clock = time.perf_counter()
        keys = mx.array(noise_keys(config.seed, state.step, config.batch_size))
        gradient, losses = objective(state.parameters, group._replace(keys=keys), weight)
        norm = optimizer.norm(gradient)
        mx.eval(gradient, losses, norm)
        state.advance(gradient, float(norm), config)
        yield {"seconds": time.perf_counter() - clock, "loss": float(losses[0]), "norm": float(norm)}
        del gradient


def measure(base: Transformer, group: Group, config: TrainConfig, runs: int, warmup: int) -> dict[str, Any]:
    """Figures of one setting."""
    stepping = steps(base, group, config)
    weights, kept = weight_bytes(base), int(next(stepping)["kept"])
    before = [next(stepping) for _ in range(warmup)]
    mx.reset_peak_memory()
    after = [next(stepping) for _ in range(runs)]
    peak = mx.get_peak_memory()
    seconds = [round(step["seconds"], 4) for step in after]
    every = [*before, *after]
    return {
        "seconds": seconds,
        "median": median(seconds),
        "least": min(seconds),
        "warmup_seconds": [round(step["seconds"], 2) for step in before],
        "weights": weights,
        "peak": peak,
        "beyond_weights": peak - weights,
        "kept": kept - weights,
        "first_loss": every[0]["loss"],
        "last_loss": every[-1]["loss"],
        "first_gradient_norm": every[0]["norm"],
        "finite": all(math.isfinite(step["loss"] + step["norm"]) for step in every),
    }


def attempt(base: Transformer, group: Group, config: TrainConfig, runs: int, warmup: int) -> dict[str, Any]:
    """As `measure`, or that there was too little memory; leaves the memory as it was."""
    try:
        figures = measure(base, group, config, runs, warmup)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error).lower() for word in ("memory", "alloc")):
            raise
        figures = {"out_of_memory": True, "error": str(error)[:300], "peak": mx.get_peak_memory()}
    gc.collect()
    mx.clear_cache()
    return figures


def compare(decoupled: dict[str, Any], coupled: dict[str, Any], draws: int) -> dict[str, Any]:
    """Decoupled over coupled."""
    both = {"decoupled": decoupled, "coupled": coupled}
    if short := [mode for mode, figures in both.items() if "out_of_memory" in figures]:
        return {"out_of_memory": short}
    time_ratio = decoupled["median"] / coupled["median"]
    return {
        "time": round(time_ratio, 4),
        "time_of_least": round(decoupled["least"] / coupled["least"], 4),
        "time_a_draw": round(time_ratio / draws, 4),
        "memory_beyond_weights": round(decoupled["beyond_weights"] / coupled["beyond_weights"], 4),
        "first_losses_differ_by": abs(decoupled["first_loss"] / coupled["first_loss"] - 1) if draws == 1 else None,
    }


def figures(setting: Setting) -> Iterator[Figure]:
    """Decoupled and coupled steps of two clips of the first size, as training takes them."""
    size, geometry = next(iter(setting.geometries().items()))
    base = build(setting.config, 0, setting.dtype)
    for coupled in (False, True):
        config = TrainConfig(coupled=coupled)
        group = make_group(base, geometry, config, TEXT)
        found = attempt(base, group, config, setting.runs, 2)
        name = f"training step, {'coupled' if coupled else 'decoupled'}, {config.batch_size} clips"
        more = {"beyond the weights, GB": round(found.get("beyond_weights", 0) / 1e9, 2)}
        yield Figure(name, size, found.get("seconds", []), more=more)


@click.command()
@model_options(192, 192)
@click.option("--batch", default=TrainConfig.batch_size, help="Clips a step; left out, as in training.")
@click.option("--draws", default=1, help="Noise draws of the adapted audio; decoupled alone, coupled has one.")
@click.option("--activations", type=click.Choice(list(DTYPES)), default=TrainConfig.activations)
@click.option("--weights", type=click.Choice(list(DTYPES)), help="Dtype of the base; left out, as in training.")
@click.option("--quantize", type=click.Choice(["0", "4", "8"]), default="0", help="Bits of the base; 0 for none.")
@click.option("--checkpointing", type=click.Choice(["on", "off", "both"]), default="both")
@click.option(
    "--compile/--no-compile", "compiled", default=TrainConfig.compile,
    help="The step as one compiled function; left out, as in training.",
)  # fmt: skip
@click.option("--runs", default=5, help="Timed steps of each setting.")
@click.option("--warmup", default=2, help="Steps of each setting that are not counted.")
def main(
    width: int, height: int, frames: int, frame_rate: float, text_tokens: int, layers: int | None, scale: int,
    config: Path, batch: int, draws: int, activations: Any, weights: str | None, quantize: str, checkpointing: str,
    compiled: bool | None, runs: int, warmup: int,
) -> None:  # fmt: skip
    """Measures the time and memory of a training step, decoupled and coupled."""
    sections = read_sections(config, layers, scale)
    geometry = Geometry(width, height, frames, frame_rate, GRID)
    geometry.check()
    begin(geometry, text_tokens=text_tokens, scale=scale, batch=batch, draws=draws)
    dtype = DTYPES[weights] if weights else default_dtype()
    base = build(TransformerConfig.read(sections["transformer"]), int(quantize), dtype)
    bits = int(quantize) or 8 * dtype.size
    report(what="base", layers=base.config.layers, bits=bits, weights=weight_bytes(base),
           active=mx.get_active_memory())  # fmt: skip
    common = TrainConfig(batch_size=batch, activations=activations, compile=compiled)
    group = make_group(base, geometry, common, text_tokens)
    ratios = []
    for recomputed in {"on": (True,), "off": (False,), "both": (True, False)}[checkpointing]:
        found: list[dict[str, Any]] = []
        for coupled in (False, True):
            setting = replace(
                common, coupled=coupled, gradient_checkpointing=recomputed, audio_draws=1 if coupled else draws
            )
            found.append(attempt(base, group, setting, runs, warmup))
            report(
                mode="coupled" if coupled else "decoupled", checkpointing=recomputed, activations=activations,
                draws=setting.audio_draws, **found[-1], active_afterwards=mx.get_active_memory(),
            )  # fmt: skip
        ratios.append({"checkpointing": recomputed, **compare(found[0], found[1], draws)})
    for ratio in ratios:
        report(what="decoupled over coupled", activations=activations, **ratio)


if __name__ == "__main__":
    main()
