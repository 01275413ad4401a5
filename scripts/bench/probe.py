# ruff: noqa
# mypy: ignore-errors
"""Variants of single operations and of a block on a GPU, for choosing between them.

python -m scripts.bench.probe
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_ltxw.machine import settle
from mlx_ltxw.models.ops import fused_cuda, packed, unpack_cuda
from mlx_ltxw.models.packed import quantize
from mlx_ltxw.models.transformer import NO_SKIPS, Skips, Transformer, TransformerConfig, Walk, joint_forward
from mlx_ltxw.models.transformer.adaln import add_gated, modulate
from mlx_ltxw.models.transformer.rope import apply_split_rope
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.tree import share
from scripts.random_model import GRID, REAL_CONFIG, fill_randomly, inputs, mlx_inputs, read_sections, report

FORMATS = {"8 bits": (64, 8, "affine"), "4 bits": (64, 4, "affine"), "mxfp8": (32, 8, "mxfp8"),
           "mxfp4": (32, 4, "mxfp4"), "nvfp4": (16, 4, "nvfp4")}  # fmt: skip


def ms(call: Callable[[], Any], runs: int = 7, together: int = 10) -> float:
    """Median milliseconds of one call, of some evaluated together."""
    mx.eval(call())
    seconds = []
    for _ in range(runs):
        clock = time.perf_counter()
        mx.eval([call() for _ in range(together)])
        seconds.append((time.perf_counter() - clock) / together)
    return round(1e3 * statistics.median(seconds), 4)


def error(got: mx.array, want: mx.array) -> float:
    got, want = got.astype(mx.float32).reshape(-1), want.astype(mx.float32).reshape(-1)
    return float(mx.linalg.norm(got - want) / mx.linalg.norm(want))


def unpacking() -> None:
    for name, how in FORMATS.items():
        layer: Any = nn.Sequential(nn.Linear(4096, 4096))
        layer.layers[0].weight = mx.random.normal((4096, 4096)).astype(mx.bfloat16)
        quantize(layer, lambda *_, how=how: dict(zip(("group_size", "bits", "mode"), how, strict=True)))
        linear = layer.layers[0]
        linear.bias = mx.zeros(4096, mx.bfloat16)
        given = linear.weight, linear.scales, linear.get("biases")
        stock = lambda given=given, how=how: mx.dequantize(*given, *how[:2], mode=how[2], dtype=mx.bfloat16)  # noqa: E731
        ours = lambda given=given, how=how: unpack_cuda.unpack(*given, *how, mx.bfloat16)  # noqa: E731
        wide = mx.dequantize(*given, *how[:2], mode=how[2], dtype=mx.float32)
        found = {}
        for rows in (1, 4, 8, 16, 32, 64, 128, 512, 4290):
            x = mx.random.normal((1, rows, 4096)).astype(mx.bfloat16)
            times = []
            for least in (None, 1):
                packed.UNPACKED_FROM["cuda"] = least
                times.append(ms(lambda x=x: linear(x), 5, 5))
            found[rows] = times
        report(
            what=f"unpack 4096x4096, {name}", stock=ms(stock), ours=ms(ours), error_stock=error(stock(), wide),
            error_ours=error(ours(), wide), rows_packed_unpacked=found,
        )  # fmt: skip
    packed.UNPACKED_FROM["cuda"] = 16


def norms() -> None:
    for tokens, width, heads in ((468, 4096, 32), (4290, 4096, 32), (101, 2048, 32)):
        x, update = (mx.random.normal((1, tokens, width)).astype(mx.bfloat16) for _ in range(2))
        rows = mx.random.normal((3, 1, 1, width)) * 0.1
        scale, shift, gate = (mx.contiguous(row) for row in rows)
        weight = mx.ones(width, mx.bfloat16)
        angles = mx.random.normal((1, tokens, heads, width // heads // 2))
        cos, sin = mx.cos(angles).astype(mx.bfloat16), mx.sin(angles).astype(mx.bfloat16)
        mx.eval(x, update, scale, shift, gate, weight, cos, sin)
        pairs = {
            "modulated": (
                lambda: modulate(mx.fast.rms_norm(x, None, 1e-6), scale, shift),
                lambda: fused_cuda.modulated_norm(x, scale, shift, 1e-6),
            ),
            "gated": (
                lambda: modulate(mx.fast.rms_norm(add_gated(x, update, gate), None, 1e-6), scale, shift),
                lambda: fused_cuda.gated_modulated_norm(x, update, gate, scale, shift, 1e-6)[1],
            ),
            "turned": (
                lambda: apply_split_rope(
                    mx.fast.rms_norm(x, weight, 1e-6).reshape(1, tokens, heads, -1), cos, sin
                ),
                lambda: fused_cuda.turned_norm(x, weight, cos, sin, 1e-6),
            ),
        }  # fmt: skip
        for name, (twin, ours) in pairs.items():
            report(
                what=f"{name} {tokens}x{width}", twin=ms(twin, together=50), ours=ms(ours, together=50),
                error=error(ours(), twin()),
            )  # fmt: skip


def merged() -> None:
    for tokens, width in ((468, 4096), (4290, 4096), (101, 2048)):
        x = mx.random.normal((1, tokens, width)).astype(mx.bfloat16)
        whole = mx.random.normal((3 * width + 32, width)).astype(mx.bfloat16)
        bias = mx.zeros(3 * width + 32, mx.bfloat16)
        cuts = [0, width, 2 * width, 3 * width, 3 * width + 32]
        parts = [mx.contiguous(whole[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
        mx.eval(x, whole, parts)
        apart = ms(lambda: [mx.addmm(bias[: len(w)], x, w.T) for w in parts], together=20)
        report(what=f"projections {tokens}x{width}", apart=apart, merged=ms(lambda: mx.addmm(bias, x, whole.T)))


def leaves(tree: Any) -> list[mx.array]:
    if isinstance(tree, mx.array):
        return [tree]
    return [leaf for part in tree for leaf in leaves(part)] if isinstance(tree, tuple) else []


def rebuilt(tree: Any, arrays: Any) -> Any:
    if isinstance(tree, mx.array):
        return next(arrays)
    if isinstance(tree, tuple):
        parts = [rebuilt(part, arrays) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return tree


def compiled_forward(model: Transformer, video: Any, audio: Any) -> Callable[[], Any]:
    """A forward whose blocks are one compiled function, submitted block by block."""
    template: Any = model.transformer_blocks[0]
    names = [name for name, _ in tree_flatten(template.parameters())]
    kept: list[Any] = []

    def step(parameters: list[mx.array], streams: list[mx.array], states: list[mx.array]) -> Any:
        block: Any = share(template)
        block.update(tree_unflatten(list(zip(names, parameters, strict=True))))
        v, a = rebuilt(kept[0], iter(states))
        out = block(video=streams[0], audio=streams[1], video_state=v, audio_state=a)
        return [out.video, out.audio]

    compiled = mx.compile(step)
    held = [[value for _, value in tree_flatten(block.parameters())] for block in model.transformer_blocks]

    def forward() -> Any:
        described = joint_forward(model, video, audio)
        kept[:] = [described.states]
        states, streams = leaves(described.states), list(described.streams)
        for parameters in held:
            streams = compiled(parameters, streams, states)
            mx.async_eval(streams)
        return described.finish(tuple(streams))

    return forward


def forwards(layers: int) -> None:
    sections = read_sections(REAL_CONFIG, layers, 1)
    config = TransformerConfig.read(sections["transformer"])
    model = Transformer(config)
    fill_randomly(model, mx.bfloat16)
    sizes = {}
    for width, height in ((192, 192), (704, 480)):
        geometry = Geometry(width, height, 97, 24.0, GRID)
        video, audio = mlx_inputs(config, inputs(config, geometry, 1024))
        mx.eval(video, audio)
        sizes[f"{width}x{height}"] = video, audio
        clock = time.perf_counter()
        described = model(video, audio, NO_SKIPS, Walk())
        description = time.perf_counter() - clock
        clock = time.perf_counter()
        mx.eval(described)
        walk = Walk.bounded()
        plain = ms(lambda v=video, a=audio, w=walk: model(v, a, NO_SKIPS, w), together=1)
        blocks = ms(lambda v=video, a=audio: model(v, a, NO_SKIPS, Walk(1)), together=1)
        whole = ms(lambda v=video, a=audio: model(v, a, NO_SKIPS, Walk()), together=1)
        report(what=f"{layers} blocks, {width}x{height}", describe_ms=round(1e3 * description, 2), parts=plain,
               blocks=blocks, whole=whole)  # fmt: skip
        guided(model, video, audio, layers)
    for size, (video, audio) in sizes.items():
        clock = time.perf_counter()
        forward = compiled_forward(model, video, audio)
        first = forward()
        mx.eval(first)
        took = time.perf_counter() - clock
        report(what=f"compiled block, {size}", first_s=round(took, 2), ms=ms(forward, together=1),
               error=error(first[0], model(video, audio)[0]))  # fmt: skip
    for name in ("8 bits", "nvfp4", "4 bits", "mxfp8"):
        packed_model = Transformer(config)
        packed_model.update(model.parameters())
        how = dict(zip(("group_size", "bits", "mode"), FORMATS[name], strict=True))
        quantize(
            packed_model,
            lambda path, layer, how=how: (
                how if isinstance(layer, nn.Linear) and "transformer_blocks" in path and "gate" not in path else False
            ),
        )
        mx.eval(packed_model.parameters())
        for size, (video, audio) in sizes.items():
            times = {}
            for way, fits in (("stock", lambda *_: False), ("ours", FITS)):
                unpack_cuda.fits = fits  # type: ignore[assignment]
                times[way] = ms(lambda m=packed_model, v=video, a=audio: m(v, a, NO_SKIPS, Walk.bounded()), 5, 1)
            report(what=f"{layers} blocks, {size}, {name}", **times)
        del packed_model


FITS = unpack_cuda.fits


def guided(model: Transformer, video: Any, audio: Any, layers: int) -> None:
    """The four passes of a dev step, each by itself and side by side; the perturbed one leaves at 28 of 48."""
    at = frozenset({layers * 28 // 48})
    passes = [NO_SKIPS, NO_SKIPS, Skips(at, at), Skips(cross=True)]
    other = [one._replace(context=one.context * 0.5) for one in (video, audio)]
    mx.eval(other)
    walk = Walk.bounded()

    def apart() -> Any:
        made = []
        for index, skips in enumerate(passes):
            made.append(model(*(other if index == 1 else (video, audio)), skips, walk))
            mx.eval(made[-1])
        return made

    def together() -> Any:
        first = joint_forward(model, video, audio)
        second = joint_forward(model, *other, first)
        return walk.together([(second if i == 1 else first, skips) for i, skips in enumerate(passes)])

    pairs = [(a, b) for x, y in zip(apart(), together(), strict=True) for a, b in zip(x, y, strict=True)]
    report(what="guided step", apart=ms(apart, 5, 1), together=ms(together, 5, 1),
           equal=all(bool(mx.array_equal(a, b)) for a, b in pairs))  # fmt: skip


if __name__ == "__main__":
    settle()
    report(device=mx.device_info().get("device_name"), mlx=mx.__version__)
    for part in (unpacking, norms, merged, lambda: forwards(12)):
        try:
            part()
        except Exception as reason:
            report(failed=repr(reason)[:3000])
