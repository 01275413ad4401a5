"""Whether takes lose anything in bfloat16: how far they are from float32 as a batch, and each as a run of its own.

    python -m scripts.takes_precision --seeds 4
    python -m scripts.takes_precision --model DIR --adapter NAME --steps 8
    python -m scripts.takes_precision --model random --layers 8 --scale 2 --takes 2 --takes 8 --seeds 4

A run carries each rounding on, so the distance of a single take is itself a matter of luck. What is compared are root
mean squares over all takes and seeds, after every step: `alone` of bfloat16 runs of one take each, `among` of the
bfloat16 run of all; both from the float32 run of all, relative to its size. `ratio` is `among / alone` with its
standard error by the jackknife over takes and seeds, `worst` the largest of a take. Then how far the float32 run of all
is from each take's own, and whether picture and base sound are the same bits.

Half of a model's takes share one adapter and differ in noise and text, the others have strengths of their own. With
`random`, weights are random, of the real widths divided by --scale; takes of one voice and of four are apart.

To try it out on a CPU: --model random --layers 2 --scale 8 --width 128 --height 128 --frames 25 --text-tokens 64
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx
import numpy as np

from mlx_ltxw.machine import this_machine
from mlx_ltxw.models.transformer import Compiled, TransformerConfig, Walk, directly
from mlx_ltxw.pipeline.denoise import Denoiser, rotaries
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.latents import Latents, noise
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan, plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import steps, transformers
from mlx_ltxw.pipeline.samplers import euler, no_noise
from mlx_ltxw.pipeline.streams import AdaptedStream
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.takes.record import only_take
from scripts.bench.lock import SEED, equal, schedules
from scripts.bench.takes import Voices, contexts_of
from scripts.random_model import GRID, begin, model_options, read_sections, relative_error, report, wide

PROMPT = 'a woman in dim light, (woman): "close your eyes"'
Run = list[Latents]
"""The latents after each step."""


class Runs(NamedTuple):
    """Of one seed: all takes in float32, all in bfloat16, each alone in bfloat16, and the first alone in float32."""

    exact: Run
    among: Run
    alone: list[Run]
    exact_alone: Run


def distances(found: Sequence[Runs], step: int) -> tuple[np.ndarray, np.ndarray]:
    """After a step, of each seed and take: alone and among, (seeds, takes) each."""
    alone, among = [], []
    for runs in found:
        exact = [wide(sound) for sound in runs.exact[step].sound]
        alone.append([relative_error(wide(run[step].sound[0]), x) for run, x in zip(runs.alone, exact, strict=True)])
        among.append([relative_error(wide(y), x) for y, x in zip(runs.among[step].sound, exact, strict=True)])
    return np.array(alone), np.array(among)


def root_mean_square(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def ratio_of(alone: np.ndarray, among: np.ndarray) -> tuple[float, float]:
    """Of root mean squares, and its standard error: what leaving out each one in turn makes of it."""
    alone, among = alone.ravel(), among.ravel()
    ratio = root_mean_square(among) / root_mean_square(alone)
    rows = range(len(alone))
    left_out = [root_mean_square(np.delete(among, i)) / root_mean_square(np.delete(alone, i)) for i in rows]
    return ratio, float(np.sqrt((len(left_out) - 1) * np.var(left_out)))


def report_runs(what: str, found: Sequence[Runs]) -> None:
    """One line for each step, and one of what must be the same."""
    last = len(found[0].exact) - 1
    for step in range(last + 1):
        alone, among = distances(found, step)
        ratio, spread = ratio_of(alone, among)
        report(
            what=what, step=step + 1, takes=alone.size, alone=float(f"{root_mean_square(alone):.4g}"),
            among=float(f"{root_mean_square(among):.4g}"), ratio=round(ratio, 4), standard_error=round(spread, 4),
            worst=round(float((among / alone).max()), 3), best=round(float((among / alone).min()), 3),
        )  # fmt: skip
    same_rows = [
        equal(runs.among[step].sound[row], run[step].sound[0])
        for runs in found for row, run in enumerate(runs.alone) for step in range(last + 1)
    ]  # fmt: skip
    report(
        what=what, float32_from_alone=[relative_error(wide(runs.exact[last].sound[0]),
                                                      wide(runs.exact_alone[last].sound[0])) for runs in found],
        picture_and_base_sound_identical=all(_same_base(r.among[last], one[last]) for r in found for one in r.alone),
        takes_and_steps_identical=f"{sum(same_rows)} of {len(same_rows)}",
    )  # fmt: skip


def _same_base(one: Latents, other: Latents) -> bool:
    assert one.video is not None
    assert other.video is not None
    return equal(one.video, other.video) and equal(one.audio, other.audio)


def of_model(
    model: str, adapter: str, count: int, size: dict[str, Any], step_count: int | None, seeds: int
) -> Iterator[Runs]:
    """Whole runs of a model, from the same noise and contexts in each dtype."""
    directory = open_model(None if model == "built-in" else model)
    shared = [f"manner={('whispering', 'soft')[row % 2]} seed=+{row}" for row in range(count - count // 2)]
    own = [
        f"adapter={adapter}:{1 - 0.2 * (row % 4 + 1):.1f} manner=whispering seed=+{row}" for row in range(count // 2)
    ]
    request = Request(PROMPT, adapters=(adapter,), takes=(*shared, *own), steps=step_count, **size)
    contexts = Networks(directory, mx.float32).contexts(plan(request, directory).prompts)
    jobs = {dtype: plan(dataclasses.replace(request, dtype=dtype), directory) for dtype in ("float32", "bfloat16")}
    networks = {dtype: Networks(directory, job.dtype, keep=True) for dtype, job in jobs.items()}

    def run(dtype: str, seed: int, take: int | None = None) -> Run:
        job: Plan = jobs[dtype] if take is None else only_take(jobs[dtype], take)
        own = networks[dtype]
        return [step.latents for step in steps(job, transformers(job, own), contexts, seed)]

    for seed in range(SEED, SEED + seeds):
        alone = [run("bfloat16", seed, take + 1) for take in range(count)]
        yield Runs(run("float32", seed), run("bfloat16", seed), alone, run("float32", seed, 1))


class RandomRuns:
    """Runs of random weights, in both dtypes.

    Args:
        config: The transformer's.
        geometry: The clip's size.
        tokens: Of text.
        takes: At most so many.
        step_count: Of the distilled schedule.
        compiled: Call blocks as small clips do.
    """

    def __init__(
        self, config: TransformerConfig, geometry: Geometry, tokens: int, takes: int, step_count: int, compiled: bool
    ) -> None:
        self.config, self.geometry = config, geometry
        self.schedule = schedules(config.layers)[1]
        self.sigmas = self.schedule.sigmas[: step_count + 1]
        self.made = {kind: Voices(config, 4, kind) for kind in (mx.float32, mx.bfloat16)}
        self.contexts = contexts_of(config, tokens, takes, mx.bfloat16)
        self.call = Compiled() if compiled else directly

    def seeds(self, takes: int, voices: int, seeds: int) -> Iterator[Runs]:
        """Of so many takes, of one voice or of several."""
        whole = {
            kind: made.one_voice(takes) if voices == 1 else made.several(takes) for kind, made in self.made.items()
        }
        alone = {kind: self._alone(kind, takes, voices) for kind in self.made}
        for seed in range(SEED, SEED + seeds):
            start = self._start(takes, SEED + 100 * seed)
            first, *_ = ones = [start._replace(adapted=start.sound[row : row + 1]) for row in range(takes)]
            yield Runs(
                self._run(mx.float32, whole[mx.float32], start),
                self._run(mx.bfloat16, whole[mx.bfloat16], start),
                [self._run(mx.bfloat16, *each) for each in zip(alone[mx.bfloat16], ones, strict=True)],
                self._run(mx.float32, alone[mx.float32][0], first),
            )

    def _alone(self, kind: mx.Dtype, takes: int, voices: int) -> list[AdaptedStream]:
        made = self.made[kind]
        if voices > 1:
            return made.alone(takes)
        whole = made.one_voice(takes)
        return [AdaptedStream(whole.model, texts=whole.texts[row : row + 1]) for row in range(takes)]

    def _start(self, takes: int, seed: int) -> Latents:
        widths = self.config.video.in_channels, self.config.audio.in_channels
        own = [noise(self.geometry, *widths, seed + 1 + row).audio for row in range(takes)]
        return noise(self.geometry, *widths, seed)._replace(adapted=mx.concatenate(own))

    def _run(self, kind: mx.Dtype, stream: AdaptedStream, start: Latents) -> Run:
        base, schedule = self.made[kind].base, self.schedule
        denoiser = Denoiser(
            base, [stream], self.contexts.astype(kind), schedule.video, schedule.audio,
            *rotaries(base, self.geometry, kind), kind, walk=Walk.bounded(this_machine().in_pieces), call=self.call,
        )  # fmt: skip
        return list(euler(denoiser, start, self.sigmas, no_noise))


@click.command()
@model_options(704, 480)
@click.option("--model", default="built-in", help="`built-in`, a model directory or repository, or `random`.")
@click.option("--adapter", default="whisper", help="Of a model that is not random.")
@click.option("--steps", "step_count", type=int, help="Of a random model 1, otherwise what the model says.")
@click.option("--takes", "counts", type=int, multiple=True, default=(6,), help="In one batch. Repeat it for more.")
@click.option("--seeds", default=1, help="Runs of each count, from other noise.")
@click.option("--compiled", is_flag=True, help="Of a random model: call blocks as those of small clips are.")
def main(
    width: int, height: int, frames: int, frame_rate: float, text_tokens: int, layers: int | None, scale: int,
    config: Path, model: str, adapter: str, step_count: int | None, counts: tuple[int, ...], seeds: int, compiled: bool,
) -> None:  # fmt: skip
    """Measures whether takes lose anything in bfloat16."""
    geometry = Geometry(width, height, frames, frame_rate, GRID)
    begin(geometry, model=model, layers=layers, scale=scale)
    if model != "random":
        size = {} if model == "built-in" else {"width": width, "height": height, "frames": frames}
        for count in counts:
            report_runs(f"{count} takes", list(of_model(model, adapter, count, size, step_count, seeds)))
        return
    clock = time.perf_counter()
    sizes = TransformerConfig.read(read_sections(config, layers, scale)["transformer"])
    runs = RandomRuns(sizes, geometry, text_tokens, max(counts), step_count or 1, compiled)
    report(what="models made", seconds=round(time.perf_counter() - clock, 1))
    for count in counts:
        for voices in (1, 4):
            clock = time.perf_counter()
            report_runs(f"{count} takes, {voices} voice(s)", list(runs.seeds(count, voices, seeds)))
            report(seconds=round(time.perf_counter() - clock, 1))


if __name__ == "__main__":
    main()
