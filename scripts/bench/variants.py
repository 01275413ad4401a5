"""Ways to do a forward: with which kernels, linears merged or not, blocks described or replayed, weights packed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_ltxw.machine import on_cuda
from mlx_ltxw.models.ops.cuda import source
from mlx_ltxw.models.ops.device import backend
from mlx_ltxw.models.ops.twins import no_gradients
from mlx_ltxw.models.transformer import (
    NO_SKIPS,
    Call,
    Compiled,
    Modality,
    Transformer,
    Walk,
    directly,
    joint_forward,
)
from mlx_ltxw.models.transformer.merged import MERGED
from mlx_ltxw.pipeline.networks import lay_together
from mlx_ltxw.tree import share
from scripts.bench.figures import Figure, timed
from scripts.bench.packings import PACKINGS, packed_copy, walk
from scripts.bench.setting import Setting
from scripts.random_model import relative_error, wide


@contextmanager
def with_kernels(ours: bool) -> Iterator[None]:
    """With kernels of our own, or with MLX's alone."""
    real = source.on_cuda
    if not ours:
        source.on_cuda = lambda: False
    try:
        yield
    finally:
        source.on_cuda = real


def forward(model: Transformer, streams: tuple[Modality, Modality], call: Call, way: Walk) -> Any:
    """Velocities, of a forward whose texts are read apart, as in a guided step."""
    with no_gradients():
        return way.together([(joint_forward(model, streams[0], streams[1], call=call), NO_SKIPS)])[0]


class Way(NamedTuple):
    """A way to do a forward.

    Attributes:
        name: In the table.
        ours: With kernels of our own, or with MLX's alone.
        merged: Linears of one input as one product.
        calling: Makes what calls the blocks.
    """

    name: str
    ours: bool
    merged: bool
    calling: Callable[[], Call]


WAYS = (
    Way("MLX's kernels", False, False, lambda: directly),
    Way("merged", False, True, lambda: directly),
    Way("ours", True, False, lambda: directly),
    Way("ours, merged", True, True, lambda: directly),
    Way("compiled", False, False, Compiled),
    Way("ours, compiled", True, False, Compiled),
    Way("ours, compiled, merged", True, True, Compiled),
)


def measure(setting: Setting) -> Iterator[Figure]:
    """Each way at each size, in turns, with its error against the first and what it holds beyond the weights; without
    CUDA there are no kernels of ours."""
    models = {False: unmerged(setting.model), True: share(setting.model)}
    if not MERGED[backend()]:
        lay_together(models[True])
    for size, geometry in setting.geometries().items():
        streams, first = setting.modalities(geometry), None
        runs, more = {}, {}
        for way in WAYS:
            if way.ours and not on_cuda():
                continue
            with with_kernels(way.ours):
                run = partial(forward, models[way.merged], streams, way.calling(), walk())
                clock = time.perf_counter()
                made = wide(run()[0])
                begun = time.perf_counter() - clock
                first = made if first is None else first
                more[way] = beside(run, streams, models[way.merged]) | {
                    "error": f"{relative_error(made, first):.1e}", "the first time, s": round(begun, 2)
                }  # fmt: skip
                runs[way] = run
        for way, seconds in in_turns(runs, setting.runs).items():
            yield Figure(way.name, size, seconds, more=more[way])


def unmerged(model: Transformer) -> Transformer:
    """A copy that multiplies with each linear by itself, and shares every array."""
    copy = share(model)
    for module in copy.modules():
        module.pop("_merged", None)
    return copy


def beside(run: partial[Any], streams: tuple[Modality, Modality], model: Transformer) -> dict[str, Any]:
    """What a forward holds beyond what was there before, and how long Python describes it."""
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(run())
    peak = mx.get_peak_memory() - before
    clock = time.perf_counter()
    described = forward(model, streams, run.args[2], Walk())
    seconds = time.perf_counter() - clock
    del described
    return {"describing, s": round(seconds, 4), "beyond, GB": round(peak / 1e9, 3)}


def in_turns(runs: Mapping[Way, Callable[[], Any]], rounds: int) -> dict[Way, list[float]]:
    """Seconds of each way, one after the other, so many rounds, every second one backwards."""
    seconds: dict[Way, list[float]] = {way: [] for way in runs}
    for number in range(rounds):
        for way in [*runs][:: 1 - 2 * (number % 2)]:
            with with_kernels(way.ours):
                seconds[way] += timed(runs[way], 1, warmup=0)
    return seconds


def packings(setting: Setting) -> Iterator[Figure]:
    """Forwards of quantised models beside one that is not, at the second size, in turns; linears merged and not."""
    clips = list(setting.geometries().items())
    size, geometry = clips[min(1, len(clips) - 1)]
    streams = setting.modalities(geometry)
    model, bare = unmerged(setting.model), Way("bf16", True, False, lambda: directly)
    for name in PACKINGS:
        ways = {bare: model}
        ways[way := bare._replace(name=f"forward, {name}")] = packed_copy(model, name)
        ways[merged := way._replace(name=f"{way.name}, merged", merged=True)] = share(ways[way])
        lay_together(ways[merged])
        runs = {each: partial(forward, model, streams, directly, walk()) for each, model in ways.items()}
        more = {each: beside(run, streams, ways[each]) for each, run in runs.items()}
        seconds = in_turns(runs, setting.runs)
        least = min(seconds[bare])
        for each in (way, merged):
            over = {"over unquantised": round(min(seconds[each]) / least, 3), "unquantised, s": least}
            yield Figure(each.name, size, seconds[each], more=over | more[each])
        del ways, runs
        mx.clear_cache()
