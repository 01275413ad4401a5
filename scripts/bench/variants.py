"""Ways to do the same forward: MLX's kernels or ours, blocks described or replayed, weights packed or unpacked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import mlx.core as mx

from mlx_ltxw.machine import on_cuda
from mlx_ltxw.models.ops.cuda import source
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
    return way.together([(joint_forward(model, streams[0], streams[1], call=call), NO_SKIPS)])[0]


def measure(setting: Setting) -> Iterator[Figure]:
    """Each way at each size, with its error against the first; without CUDA there are no kernels of ours."""
    ways: dict[str, tuple[bool, Callable[[], Call]]] = {
        "MLX's kernels": (False, lambda: directly), "ours": (True, lambda: directly),
        "compiled": (False, Compiled), "ours, compiled": (True, Compiled),
    }  # fmt: skip
    for size, geometry in setting.geometries().items():
        streams, first = setting.modalities(geometry), None
        for name, (fused, calling) in ways.items():
            if fused and not on_cuda():
                continue
            with with_kernels(fused):
                run = partial(forward, setting.model, streams, calling(), walk())
                clock = time.perf_counter()
                made = wide(run()[0])
                begun = time.perf_counter() - clock
                seconds = timed(run, setting.runs)
                described = partial(forward, setting.model, streams, run.args[2], Walk())
                clock = time.perf_counter()
                described()
                more = {"describing, s": round(time.perf_counter() - clock, 4), "the first time, s": round(begun, 2)}
            first = made if first is None else first
            yield Figure(name, size, seconds, more=more | {"error": f"{relative_error(made, first):.1e}"})


def packings(setting: Setting) -> Iterator[Figure]:
    """Forwards of quantised models beside one that is not, at the second size."""
    clips = list(setting.geometries().items())
    size, geometry = clips[min(1, len(clips) - 1)]
    streams = setting.modalities(geometry)
    bare = min(timed(partial(forward, setting.model, streams, directly, walk()), setting.runs))
    for name in PACKINGS:
        model = packed_copy(setting.model, name)
        run = partial(forward, model, streams, directly, walk())
        seconds = timed(run, setting.runs)
        yield Figure(f"forward, {name}", size, seconds, more={"over unquantised": round(min(seconds) / bare, 3)})
        del model, run
        mx.clear_cache()
