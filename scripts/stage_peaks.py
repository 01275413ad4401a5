"""What each part of a run holds at most, beside what the plan says: a network's part ends when the next one is loaded.

    python -m scripts.stage_peaks -m MODEL --width 704 --height 480 --frames 97 --steps 1

Prints one JSON object a part: bytes that MLX held at most, the plan's, and their ratio; at the end the process's own
memory where the plan counts it.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx

from mlx_ltxw.machine import Parts, resident_memory
from mlx_ltxw.pipeline.adapter_needs import read_adapters
from mlx_ltxw.pipeline.events import Decoded
from mlx_ltxw.pipeline.given import NO_MATERIAL, Material
from mlx_ltxw.pipeline.needs import GIVEN_PICTURE, GIVEN_SOUND, PARTS, UPSAMPLER_PART
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan, _work, plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.printing import read_bytes
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import Residency
from scripts.random_model import report

OTHERS = (GIVEN_SOUND, GIVEN_PICTURE, UPSAMPLER_PART)
"""Parts that not every run has."""


class Peaks(dict[str, int]):
    """The most that MLX held while each part of the plan was made, by the beginning of its name."""

    def __init__(self) -> None:
        super().__init__()
        self._part = ""
        mx.reset_peak_memory()

    def begin(self, component: str) -> None:
        """Ends a part, and begins another; "" for none."""
        if self._part:
            self[self._part] = max(self.get(self._part, 0), mx.get_peak_memory())
        self._part = PARTS.get(component) or next((part for part in OTHERS if component.startswith(part)), component)
        mx.reset_peak_memory()


@contextlib.contextmanager
def watched() -> Iterator[Peaks]:
    """Takes down what each part holds while runs go on in this process."""
    peaks, begin = Peaks(), Parts.begin

    def beginning(self: Parts, name: str, weights: int, activations: int) -> None:
        peaks.begin(name)
        begin(self, name, weights, activations)

    Parts.begin = beginning  # type: ignore[method-assign]
    try:
        yield peaks
        peaks.begin("")
    finally:
        Parts.begin = begin  # type: ignore[method-assign]


def measured(job: Plan, networks: Networks | None = None, material: Material = NO_MATERIAL) -> Peaks:
    """Runs a plan; what its parts held, its adapters included, beyond what was held before."""
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory() - read_adapters(_work(job))  # which are there since it was planned
    with watched() as peaks:
        for event in run(job, networks, material=material):
            if isinstance(event, Decoded) and event.video is not None:
                for _ in event.video:
                    pass
    for part in peaks:
        peaks[part] -= before
    return peaks


def predicted(job: Plan) -> dict[str, int]:
    """The plan's, of MLX's arrays, by the same names."""
    return {part: max((n.arrays for n in job.budget.needs if n.name.startswith(part)), default=0)
            for part in [*dict.fromkeys(PARTS.values()), *OTHERS]}  # fmt: skip


@click.command()
@click.option("-m", "--model", type=click.Path(exists=True, path_type=Path), default=BUILTIN_MODEL)
@click.option("--width", type=int)
@click.option("--height", type=int)
@click.option("--frames", default=97)
@click.option("--steps", default=1)
@click.option("--adapter", "adapters", multiple=True)
@click.option("--audio-only", is_flag=True)
@click.option("--memory", help="As for generate.")
@click.option("--resident", type=int, help="Blocks that stay in memory, whatever the plan says.")
@click.option("--dtype")
def main(
    model: Path, width: int | None, height: int | None, frames: int, steps: int, adapters: tuple[str, ...],
    audio_only: bool, memory: str | None, resident: int | None, dtype: str | None,
) -> None:  # fmt: skip
    """Compares a run with its plan."""
    request = Request(
        'a woman in dim light, (woman, whispering): "close your eyes"', seeds=(1,), width=width, height=height,
        frames=frames, steps=steps, adapters=adapters, audio_only=audio_only, dtype=dtype,
    )  # fmt: skip
    job = plan(request, ModelDir.open(model), read_bytes(memory) if memory else None)
    networks = Networks(job.model, job.dtype, residency=None if resident is None else Residency(resident))
    said, found = predicted(job), measured(job, networks)
    for part, peak in found.items():
        ratio = round(said[part] / peak, 3)
        report(part=part, peak_mb=round(peak / 1e6, 2), plan_mb=round(said[part] / 1e6, 2), ratio=ratio)
    report(resident_mb=round(resident_memory() / 1e6), plan_mb=round(job.budget.peak / 1e6))


if __name__ == "__main__":
    main()
