"""Ways to do the same forward: MLX's kernels or ours, blocks described or replayed, weights packed or unpacked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import mlx.core as mx

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
from mlx_ltxw.models.transformer.adaln import modulated_norm
from mlx_ltxw.models.transformer.rope import turned_norm
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
    """Each way at each size, with its error against the first; then the fused kernels alone."""
    yield from kernels(setting)
    ways: dict[str, tuple[bool, Callable[[], Call]]] = {
        "MLX's kernels": (False, lambda: directly), "ours": (True, lambda: directly),
        "compiled": (False, Compiled), "ours, compiled": (True, Compiled),
    }  # fmt: skip
    for size, geometry in setting.geometries().items():
        streams, first = setting.modalities(geometry), None
        for name, (fused, calling) in ways.items():
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


def kernels(setting: Setting) -> Iterator[Figure]:
    """A norm with its modulation, and one with its rotation: fused and apart, of one clip's tokens."""
    for stream, tokens in ((setting.config.video, 4290), (setting.config.video, 468), (setting.config.audio, 101)):
        width, heads, keys = stream.dim, stream.heads, mx.random.split(mx.random.key(0), 4)
        x = mx.random.normal((1, tokens, width), key=keys[0]).astype(setting.dtype)
        scale, shift = (mx.random.normal((1, 1, width), key=key) for key in keys[1:3])
        angles = mx.random.normal((1, tokens, heads, width // heads // 2), key=keys[3])
        turns = mx.cos(angles).astype(setting.dtype), mx.sin(angles).astype(setting.dtype)
        weight = mx.ones(width, setting.dtype)
        mx.eval(x, scale, shift, turns, weight)
        works = {
            "norm and modulation": partial(modulated_norm, x, scale, shift, 1e-6),
            "norm and rotation": partial(turned_norm, x, weight, 1e-6, *turns),
        }
        for name, work in works.items():
            found, seconds = {}, {}
            for fused in (False, True):
                with with_kernels(fused):
                    many = lambda work=work: [work() for _ in range(20)]  # noqa: E731
                    seconds[fused] = [each / 20 for each in timed(many, setting.runs)]
                    found[fused] = wide(work())
            error = f"{relative_error(found[True], found[False]):.1e}"
            apart = f"{1e6 * min(seconds[False]):.1f}"
            yield Figure(name, f"{tokens}x{width}", seconds[True], more={"apart, us": apart, "error": error})


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
