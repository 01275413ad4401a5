"""Kernels of ours beside MLX's, one at a time, at the sizes that a clip's tokens have."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mlx.core as mx

from mlx_ltxw.machine import on_cuda
from mlx_ltxw.models import ops
from mlx_ltxw.models.transformer.adaln import add_gated, added_norms, modulate, modulated_norms
from mlx_ltxw.models.transformer.attention import attend_gated, gate_heads
from mlx_ltxw.models.transformer.config import StreamConfig
from mlx_ltxw.models.transformer.rope import turned_norm
from scripts.bench.figures import Figure
from scripts.bench.setting import Setting
from scripts.bench.variants import with_kernels
from scripts.random_model import relative_error, wide

TOGETHER = 40
"""Calls that are evaluated in one; describing them is not timed."""


def measure(setting: Setting) -> Iterator[Figure]:
    """Seconds of each, with MLX's as a peer, how long the host takes to start it, and the relative difference; one line
    that says so where there are none of ours."""
    if not on_cuda():
        yield Figure("kernels of ours", "", [], more={"none": f"on {mx.default_device()}"})
        return
    for stream, tokens in ((setting.config.video, 4290), (setting.config.video, 468), (setting.config.audio, 101)):
        for name, work in works(stream, tokens, setting.dtype).items():
            found, seconds, begun = {}, {}, {}
            for ours in (False, True):
                with with_kernels(ours):
                    found[ours] = wide(mx.concatenate([array.reshape(-1) for array in arrays(work())]))
                    seconds[ours], begun[ours] = timed(work, setting.runs)
            more: dict[str, Any] = {
                "started in, us": round(1e6 * min(begun[True]), 1),
                "MLX's, us": round(1e6 * min(begun[False]), 1),
            }
            more["error"] = f"{relative_error(found[True], found[False]):.1e}"
            peers = {"MLX": sorted(seconds[False])[len(seconds[False]) // 2]}
            yield Figure(name, f"{tokens}x{stream.dim}", seconds[True], peers=peers, more=more)


def works(stream: StreamConfig, tokens: int, dtype: mx.Dtype) -> dict[str, Callable[[], Any]]:
    """What a block does to a stream's tokens, by name."""
    width, heads, keys = stream.dim, stream.heads, iter(mx.random.split(mx.random.key(0), 16))
    x, update, context = (mx.random.normal((1, tokens, width), key=next(keys)).astype(dtype) for _ in range(3))
    scale, shift, gate, other = (mx.random.normal((1, 1, width), key=next(keys)) for _ in range(4))
    logits = mx.random.normal((1, tokens, heads), key=next(keys)).astype(dtype)
    hidden = mx.random.normal((1, min(tokens, 2048), 4 * width), key=next(keys)).astype(dtype)
    angles = mx.random.normal((1, tokens, heads, width // heads // 2), key=next(keys))
    turns, weight = (mx.cos(angles).astype(dtype), mx.sin(angles).astype(dtype)), mx.ones(width, dtype)
    q, k, v = (y.reshape(1, tokens, heads, -1) for y in (x, update, context))
    mx.eval(x, update, context, scale, shift, gate, other, logits, hidden, turns, weight)
    rows = [(scale, shift), (other, gate)]
    return {
        "norm, modulated": partial(modulated_norms, x, rows[:1], 1e-6),
        "sum and norm, modulated": partial(added_norms, x, update, gate, rows[:1], 1e-6),
        "sum and norm, modulated twice": partial(added_norms, x, update, gate, rows, 1e-6),
        "sum": partial(add_gated, x, update, gate),
        "modulation": partial(modulate, x, scale, shift),
        "norm and rotation": partial(turned_norm, x, weight, 1e-6, *turns),
        "gates of heads": partial(gate_heads, q, logits),
        "gelu": partial(ops.gelu_tanh, hidden),
        "attention and gates": partial(attend_gated, q, k, v, logits, (width // heads) ** -0.5),
    }


def timed(work: Callable[[], Any], runs: int) -> tuple[list[float], list[float]]:
    """Seconds of one call and of starting it, for each run."""
    seconds, begun = [], []
    for _ in range(runs + 1):
        made = [work() for _ in range(TOGETHER)]
        mx.synchronize()
        clock = time.perf_counter()
        mx.async_eval(made)
        begun.append((time.perf_counter() - clock) / TOGETHER)
        mx.synchronize()
        seconds.append(round((time.perf_counter() - clock) / TOGETHER, 7))
    return seconds[1:], begun[1:]


def arrays(made: Any) -> list[mx.array]:
    """Of a tree."""
    return [made] if isinstance(made, mx.array) else [array for part in made for array in arrays(part)]
