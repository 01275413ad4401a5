"""Whether takes lose anything in bfloat16: how far each is from its own run in float32, made alone and among others.

    python -m scripts.takes_precision
    python -m scripts.takes_precision --model DIR --adapter NAME --steps 8
    python -m scripts.takes_precision --model random --layers 8 --scale 2

Prints one JSON object a line for each take: `alone` is the bfloat16 run of that take alone against its float32 run,
`among` the bfloat16 run of all takes against the same, and `float32` all takes in float32 against it; relative errors
of the final latents. Half of the takes share one adapter and differ in noise and text, the others have strengths of
their own. With `random`, weights are random, of the real widths divided by --scale, and one forward is compared. The
last line has the geometric mean of `among / alone` with its standard error, the largest of a take, and whether picture
and base sound are the same bits. Whole runs scatter by a factor of two from take to take, in both directions, since a
run carries each rounding on: only the mean of many says something.

To try it out on a CPU: --model random --layers 2 --scale 8 --width 128 --height 128 --frames 25 --text-tokens 64
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from pathlib import Path
from typing import Any

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx

from mlx_ltxw.machine import this_machine
from mlx_ltxw.models.transformer import TransformerConfig, Walk
from mlx_ltxw.pipeline.contexts import Contexts
from mlx_ltxw.pipeline.denoise import Denoiser, rotaries
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.latents import Latents
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan, plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import steps, transformers
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.takes.record import only_take
from scripts.bench.lock import equal, schedules
from scripts.bench.takes import Voices, contexts_of, start_of
from scripts.random_model import GRID, begin, model_options, read_sections, relative_error, report, wide

DTYPES = ("float32", "bfloat16")
PROMPT = 'a woman in dim light, (woman): "close your eyes"'


def report_takes(names: list[str], runs: dict[str, tuple[Latents, list[Latents]]]) -> None:
    """Each take's distances; of every dtype all takes at once, and each alone."""
    exact = [wide(one.sound[0]) for one in runs["float32"][1]]
    found = []
    for row, name in enumerate(names):
        together, alone = runs["bfloat16"]
        errors = {
            "alone": relative_error(wide(alone[row].sound[0]), exact[row]),
            "among": relative_error(wide(together.sound[row]), exact[row]),
            "float32": relative_error(wide(runs["float32"][0].sound[row]), exact[row]),
        }
        found.append(errors)
        report(take=name, **errors)
    quotients = [one["among"] / one["alone"] for one in found]
    mean = math.exp(statistics.fmean(map(math.log, quotients)))
    spread = statistics.pstdev(map(math.log, quotients)) / len(quotients) ** 0.5
    same = {dtype: all(_same_base(together, one) for one in alone) for dtype, (together, alone) in runs.items()}
    report(
        geometric_mean=round(mean, 4), standard_error=round(mean * spread, 4), largest=round(max(quotients), 4),
        picture_and_base_sound_identical=same,
    )  # fmt: skip


def _same_base(one: Latents, other: Latents) -> bool:
    assert one.video is not None
    assert other.video is not None
    return equal(one.video, other.video) and equal(one.audio, other.audio)


def of_model(model: str, adapter: str, count: int, size: dict[str, Any], step_count: int | None) -> None:
    """Whole runs of a model, from the same noise and contexts in each dtype."""
    directory = open_model(None if model == "built-in" else model)
    shared = [f"manner={('whispering', 'soft')[row % 2]} seed=+{row}" for row in range(count - count // 2)]
    own = [f"adapter={adapter}:{1 - 0.2 * (row + 1):.1f} manner=whispering seed=+{row}" for row in range(count // 2)]
    request = Request(PROMPT, adapters=(adapter,), takes=(*shared, *own), steps=step_count, **size)
    contexts = Networks(directory, mx.float32).contexts(plan(request, directory).prompts)
    runs = {}
    for dtype in DTYPES:
        job = plan(dataclasses.replace(request, dtype=dtype), directory)
        networks = Networks(directory, job.dtype, keep=True)
        alone = [_final(only_take(job, number), networks, contexts) for number in range(1, count + 1)]
        runs[dtype] = _final(job, networks, contexts), alone
    report_takes(list(request.takes), runs)


def _final(job: Plan, networks: Networks, contexts: Contexts) -> Latents:
    *_, last = steps(job, transformers(job, networks), contexts, job.settings.seeds[0])
    return last.latents


def of_random(sections: dict[str, Any], geometry: Geometry, tokens: int, count: int) -> None:
    """One forward with random weights, of takes of one voice and of four."""
    config = TransformerConfig.read(sections["transformer"])
    for voices in (1, 4):
        runs = {dtype: _forwards(config, geometry, tokens, count, voices, dtype) for dtype in DTYPES}
        report_takes([f"{row} of {voices} voice{'s' * (voices > 1)}" for row in range(count)], runs)


def _forwards(
    config: TransformerConfig, geometry: Geometry, tokens: int, count: int, voices: int, dtype: str
) -> tuple[Latents, list[Latents]]:
    """Of all takes, and of each alone."""
    kind = getattr(mx, dtype)
    made = Voices(config, voices, kind)
    contexts, start = contexts_of(config, tokens, count, mx.bfloat16).astype(kind), start_of(config, geometry, count)
    schedule, walk = schedules(config.layers)[1], Walk.bounded(this_machine().in_pieces)
    rotary = rotaries(made.base, geometry, kind)
    whole = made.one_voice(count) if voices == 1 else made.several(count)

    def predicted(streams: list[Any], latents: Latents) -> Latents:
        denoiser = Denoiser(made.base, streams, contexts, schedule.video, schedule.audio, *rotary, kind, walk=walk)
        found = denoiser(latents, float(schedule.sigmas[0]))
        mx.eval(found)
        return found

    together, sounds = predicted([whole], start), start.sound
    alone = [
        predicted([stream], start._replace(adapted=sounds[row : row + 1]))
        for row, stream in enumerate(made.alone(count))
    ]
    return together, alone


@click.command()
@model_options(704, 480)
@click.option("--model", default="built-in", help="`built-in`, a model directory or repository, or `random`.")
@click.option("--adapter", default="whisper", help="Of a model that is not random.")
@click.option("--steps", "step_count", type=int, help="Of a model that is not random.")
@click.option("--takes", "count", default=6)
def main(
    width: int, height: int, frames: int, frame_rate: float, text_tokens: int, layers: int | None, scale: int,
    config: Path, model: str, adapter: str, step_count: int | None, count: int,
) -> None:  # fmt: skip
    """Measures whether takes lose anything in bfloat16."""
    geometry = Geometry(width, height, frames, frame_rate, GRID)
    begin(geometry, model=model, layers=layers, scale=scale)
    if model == "random":
        of_random(read_sections(config, layers, scale), geometry, text_tokens, count)
    else:
        size = {} if model == "built-in" else {"width": width, "height": height, "frames": frames}
        of_model(model, adapter, count, size, step_count)


if __name__ == "__main__":
    main()
