"""How far float16 and bfloat16 are from float32, of the transformer: with random weights at full size, or a real model.

    python -m scripts.half_precision --width 704 --height 480 --frames 97
    python -m scripts.half_precision --model DIR --prompt 'a woman, (woman, whispering): "close your eyes"' --steps 8

Prints one JSON object a line. Without --model: one forward a dtype with the same weights, which are exact in each
(rounded to bfloat16's 8 bits, of sizes that float16 has too), its relative error against float32, and the largest
value after any update of a block, which in float16 has to stay below 65504. With --model: the latents of a whole run a
dtype from the same noise and contexts, and of those the same errors. Random weights say nothing of the few huge
activations that trained transformers have: only --model does. Random float32 weights at full size take 76 GB. To try
it out on a CPU: --layers 2 --scale 8 --width 64 --height 64 --frames 9 --text-tokens 32, or --model built-in
--audio-only --steps 2
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx
import numpy as np

from mlx_ltxw.models.transformer import NO_SKIPS, Transformer, TransformerConfig, Walk
from mlx_ltxw.models.transformer.update import Update
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import steps, transformers
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.weights.dtype import NAMED
from scripts.random_model import (
    GRID,
    begin,
    fill_randomly,
    inputs,
    mlx_inputs,
    model_options,
    read_sections,
    relative_error,
    report,
    wide,
)

LARGEST = 65504.0
"""Of float16."""
ORDER = ("float32", "bfloat16", "float16")


@contextmanager
def watching() -> Iterator[list[float]]:
    """The largest value of any stream after any update of any block, while it lasts; each is evaluated by itself."""
    seen = [0.0]
    plain = Update.__call__

    def call(self: Update, *given: Any, **options: Any) -> Any:
        made = plain(self, *given, **options)
        largest = float(mx.abs(made.whole().astype(mx.float32)).max())
        seen[0] = largest if largest != largest else max(seen[0], largest)  # NaN stays
        return made

    Update.__call__ = call  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Update.__call__ = plain  # type: ignore[method-assign]


def compare(name: str, made: dict[str, np.ndarray], exact: dict[str, np.ndarray], **more: Any) -> None:
    """Reports one dtype's outputs against float32's."""
    errors = {f"{stream}_error": relative_error(value, exact[stream]) for stream, value in made.items()}
    report(dtype=name, finite=all(bool(np.isfinite(value).all()) for value in made.values()), **errors, **more)


def random_forwards(sections: dict[str, Any], geometry: Geometry, text_tokens: int) -> None:
    config = TransformerConfig.read(sections["transformer"])
    arrays = inputs(config, geometry, text_tokens)
    exact: dict[str, np.ndarray] = {}
    for name in ORDER:
        dtype = NAMED[name]
        model = Transformer(config)
        fill_randomly(model, mx.bfloat16)
        model.set_dtype(dtype, lambda one: one == mx.bfloat16)  # tables stay float32
        video, audio = mlx_inputs(config, arrays, dtype)
        with watching() as seen:
            outputs = model(video, audio, NO_SKIPS, Walk.bounded())
            mx.eval(outputs)
        clock = time.perf_counter()
        outputs = model(video, audio, NO_SKIPS, Walk.bounded())
        mx.eval(outputs)
        seconds = time.perf_counter() - clock
        made = dict(zip(("video", "audio"), map(wide, outputs), strict=True))
        exact = exact or made
        compare(name, made, exact, seconds=round(seconds, 4), **_headroom(seen))
        del model, outputs, video, audio
        mx.clear_cache()


def real_runs(model: str, request: Request) -> None:
    """A run a dtype; the contexts are computed once, in float32's text path."""
    directory = open_model(None if model == "built-in" else model)
    exact: dict[str, np.ndarray] = {}
    contexts = None
    for name in ORDER:
        job = plan(dataclasses.replace(request, dtype=name), directory)
        networks = Networks(directory, job.dtype)
        contexts = contexts or networks.contexts(job.prompts)
        with watching() as seen:
            *_, last = steps(job, transformers(job, networks), contexts, job.settings.seeds[0])
        latents = {"video": last.latents.video, "audio": last.latents.sound}
        made = {stream: wide(value) for stream, value in latents.items() if value is not None}
        exact = exact or made
        compare(name, made, exact, steps=last.total, **_headroom(seen))
        mx.clear_cache()


def _headroom(seen: list[float]) -> dict[str, Any]:
    return {"largest": round(seen[0], 1), "of_float16": round(seen[0] / LARGEST, 4)}


@click.command()
@model_options(704, 480)
@click.option("--model", help="A model directory or repository, or `built-in`, in place of random weights.")
@click.option("--prompt", default='a woman in dim light, (woman, whispering): "close your eyes"')
@click.option("--steps", type=int, help="With --model: denoising steps.")
@click.option("--audio-only", is_flag=True, help="With --model: sound alone.")
def main(
    width: int, height: int, frames: int, frame_rate: float, text_tokens: int, layers: int | None, scale: int,
    config: Path, model: str | None, prompt: str, steps: int | None, audio_only: bool,
) -> None:  # fmt: skip
    """Measures how faithful float16 and bfloat16 are."""
    geometry = Geometry(width, height, frames, frame_rate, GRID)
    begin(geometry, text_tokens=text_tokens, model=model)
    if model is None:
        random_forwards(read_sections(config, layers, scale), geometry, text_tokens)
    else:
        size: dict[str, Any] = {} if model == "built-in" else {"width": width, "height": height, "frames": frames}
        real_runs(model, Request(prompt, steps=steps, audio_only=audio_only, **size))


if __name__ == "__main__":
    main()
