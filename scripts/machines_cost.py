"""A guided step on several machines: measured on the GPUs of one host, projected for Macs.

    mlx.launch --backend nccl -n 2 python -m scripts.machines_cost measure --width 704 --height 480 --frames 97
    python -m scripts.machines_cost project

`measure` takes LTX-2.3's transformer at full size with random weights (the same on every machine, drawn on the device),
does a guided step alone and split in every way, and prints one JSON object a line on the leading machine: seconds, the
relative difference from the step of one machine, bytes of weights, and bytes received against what the plan says.
`project` prints what the same model of cost says for Macs; nothing of that is measured.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import mlx_ltxw.blas  # noqa: F401  # before MLX

# isort: split
import click
import mlx.core as mx
import numpy as np

from mlx_ltxw.machine import settle, this_machine
from mlx_ltxw.machines.cost import Speed, estimate, measured
from mlx_ltxw.models.transformer import Transformer, TransformerConfig, Walk
from mlx_ltxw.models.transformer.tensor import TensorShare, kept, shard_transformer
from mlx_ltxw.pipeline.contexts import Contexts
from mlx_ltxw.pipeline.denoise import Denoiser, rotaries
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.guidance import DEV_AUDIO, DEV_VIDEO, passes
from mlx_ltxw.pipeline.latents import Latents, noise
from mlx_ltxw.pipeline.split import PASSES, TENSOR, TOKENS, WHOLE, Split
from mlx_ltxw.pipeline.wire import Sizes, step_traffic
from mlx_ltxw.world import World
from scripts.random_model import GRID, SIGMA, fill_randomly, median, model_options, read_sections, report, weight_bytes

LINKS = {
    "10 GbE": (1.1e9, 100e-6),
    "Thunderbolt 4, ring": (2.8e9, 60e-6),
    "Thunderbolt 5, ring": (7.0e9, 60e-6),
    "Thunderbolt 5, JACCL": (7.0e9, 10e-6),
}
"""Bytes a second that a machine receives, and seconds of a collective of next to nothing. Payload rates: 10 Gb/s less
Ethernet's and TCP's framing; Thunderbolt 4's 40 Gb/s gives data 32 less its own framing, Thunderbolt 5's 80 Gb/s about
as much more again; latencies as Apple and MLX give them for TCP and for RDMA (macOS 26.2). None of it measured here."""
NCCL = {
    "gather": ((17_571_840, 0.157e-3), (57_671_680, 0.38e-3)),
    "sum": ((17_571_840, 0.143e-3), (57_671_680, 0.309e-3)),
}
"""Bytes that each of two H200s of one host received, and seconds, measured on 2026-11-28 with MLX 0.32.4: half of the
keys of 4290 tokens and of 14,080, in bf16."""
NCCL_LATENCY = 0.067e-3
"""Seconds of either with next to nothing in it."""
H200 = {(704, 480, 97): 0.821, (768, 512, 121): 0.354 * 0.821 / 0.254}
"""Seconds of a guided step on one, measured on 2026-12-01; of the larger clip from its forward, whose step was not."""
MACS = {"M4": 4.0e12, "M4 Pro": 8.0e12, "M4 Max": 16.0e12, "M3 Ultra": 26.0e12}
"""Sustained half-precision operations a second in large products: about nine tenths of the GPU's published peak."""


def nccl_link() -> Speed:
    """Two H200s, from the smaller collectives that were measured; of a device's arithmetic it says nothing."""
    rates = {how: received / (seconds - NCCL_LATENCY) for how, ((received, seconds), _) in NCCL.items()}
    return Speed(1.0, rates["gather"], NCCL_LATENCY, 0.0, rates["sum"])


def denoiser(
    model: Transformer, geometry: Geometry, text_tokens: int, split: Split, dtype: mx.Dtype
) -> Denoiser:  # fmt: skip
    """A guided step's, with LTX-2.3's own guidance and random texts."""
    config, keys = model.config, mx.random.split(mx.random.key(7))
    video, audio = (
        mx.random.normal((2, text_tokens, stream.context_dim), key=key).astype(dtype)
        for stream, key in zip((config.video, config.audio), keys, strict=True)
    )
    walk = Walk.bounded(this_machine().in_pieces)
    tables = rotaries(model, geometry, dtype, split=split)
    return Denoiser(model, (), Contexts(video, audio), DEV_VIDEO, DEV_AUDIO, *tables, dtype, walk=walk, split=split)


def timed_step(denoise: Denoiser, latents: Latents, world: World, runs: int) -> tuple[Latents, float]:
    """The clean latents, and seconds of a step, the median of several after one that is not counted."""
    seconds: list[float] = []
    clean = latents
    for _ in range(runs + 1):
        world.wait()
        began = time.perf_counter()
        clean = denoise(latents, SIGMA)
        mx.eval(clean)
        seconds.append(time.perf_counter() - began)
    return clean, median(seconds[1:] or seconds)


def sharded(config: TransformerConfig, whole: Transformer, split: Split) -> Transformer:
    """This machine's share of a transformer's weights, copied."""
    share = split.shard(config)
    assert share is not None
    model = Transformer(config)
    shard_transformer(model, share, split.turns)
    arrays = [(name, _copied(value, name, share)) for name, value in _flat(whole)]
    model.load_weights([*kept(dict(arrays), share).items()], strict=True)
    mx.eval(model.parameters())
    return model


def _copied(value: mx.array, name: str, share: TensorShare) -> mx.array:
    cut = share.cut(name, value.shape)
    copy = value if cut is None else mx.contiguous(value[cut])
    mx.eval(copy)
    return copy


def _flat(model: Transformer) -> list[tuple[str, mx.array]]:
    from mlx.utils import tree_flatten

    flat: list[tuple[str, mx.array]] = tree_flatten(model.parameters())
    return flat


def difference(ours: Latents, theirs: Latents) -> float:
    """Relative, of the stream that differs most."""
    found = []
    for a, b in zip(ours, theirs, strict=True):
        if a is not None and b is not None:
            x, y = (np.asarray(one, np.float64) for one in (a, b))
            found.append(float(np.linalg.norm(x - y) / np.linalg.norm(y)))
    return max(found)


@click.group()
def main() -> None:
    """A guided step on several machines."""


@main.command()
@model_options(704, 480)
@click.option("--runs", default=3, help="Timed steps after one that is not counted; 0 times that one.")
@click.option("--float32", is_flag=True, help="Instead of bfloat16.")
def measure(
    width: int, height: int, frames: int, frame_rate: float, text_tokens: int, layers: int | None, scale: int,
    config: Any, runs: int, float32: bool,
) -> None:  # fmt: skip
    """Measures a step alone and split in every way; start it on every machine."""
    settle()
    world, dtype = World.join(), mx.float32 if float32 else mx.bfloat16
    section = read_sections(config, layers, scale)["transformer"]
    numbers, geometry = TransformerConfig.read(section), Geometry(width, height, frames, frame_rate, GRID)
    every = passes(DEV_VIDEO, DEV_AUDIO, numbers.layers)
    speed = measured(world, dtype)
    model = Transformer(numbers)
    fill_randomly(model, dtype)
    whole_bytes = weight_bytes(model)
    latents = noise(geometry, numbers.video.in_channels, numbers.audio.in_channels, 3)
    sizes = Sizes(numbers, geometry.video_tokens, geometry.audio_tokens, 0, 0, dtype.size)
    tell = report if world.leads else (lambda **_: None)
    size = f"{width}x{height}x{frames}"
    tell(size=size, machines=world.size, video_tokens=sizes.video, passes=len(every), link=vars(speed))
    alone, seconds = timed_step(denoiser(model, geometry, text_tokens, Split(), dtype), latents, world, runs)
    tell(size=size, split=WHOLE, seconds=seconds, weights=whole_bytes, error=0.0)
    rate = _model_rate(sizes, every, seconds, speed)
    for how in (PASSES, TOKENS, TENSOR):
        split = Split.of(how, world)
        if how == TENSOR:
            model = sharded(numbers, model, split)
            mx.clear_cache()
        mx.reset_peak_memory()
        clean, took = timed_step(denoiser(model, geometry, text_tokens, split, dtype), latents, world, runs)
        sent = split.turns.bytes // (runs + 1)
        said = estimate(sizes, every, how, world.size, rate)
        tell(
            size=size, split=how, seconds=took, faster=round(seconds / took, 3), modelled=round(said.seconds, 4),
            error=difference(clean, alone), same=all(map(_same, clean, alone)), bytes=sent,
            planned=step_traffic(sizes, every, how, world.size).bytes, weights=weight_bytes(model),
            share=round(weight_bytes(model) / whole_bytes, 4), peak=mx.get_peak_memory(),
        )  # fmt: skip


def _same(a: mx.array | None, b: mx.array | None) -> bool:
    return a is None or b is None or bool(mx.array_equal(a, b))


def _model_rate(sizes: Sizes, every: Any, seconds: float, speed: Speed) -> Speed:
    """Operations a second that the step of one machine came to, in place of those of a bare product."""
    nominal = estimate(sizes, every, WHOLE, 1, speed)
    return dataclasses.replace(speed, flops=speed.flops * nominal.seconds / seconds)


@main.command()
@model_options(704, 480)
def project(
    width: int, height: int, frames: int, frame_rate: float, text_tokens: int, layers: int | None, scale: int,
    config: Any,
) -> None:  # fmt: skip
    """Seconds of a guided step on 2 to 8 Macs, projected."""
    numbers = TransformerConfig.read(read_sections(config, layers, scale)["transformer"])
    geometry = Geometry(width, height, frames, frame_rate, GRID)
    every = passes(DEV_VIDEO, DEV_AUDIO, numbers.layers)
    sizes = Sizes(numbers, geometry.video_tokens, geometry.audio_tokens, 0, 0, 2)
    for size, alone in H200.items():
        clip = Geometry(*size, frame_rate, GRID)
        two = Sizes(numbers, clip.video_tokens, clip.audio_tokens, 0, 0, 2)
        rate = _model_rate(two, every, alone, nccl_link())
        found = {how: estimate(two, every, how, 2, rate) for how in (PASSES, TOKENS, TENSOR)}
        report(
            projected=True, machines="two H200, NCCL", size="x".join(map(str, size)), alone=round(alone, 3),
            **{how: f"{one.seconds:.3f} s, {alone / one.seconds:.2f} x" for how, one in found.items()},
        )  # fmt: skip
    for mac, flops in MACS.items():
        alone = estimate(sizes, every, WHOLE, 1, Speed(flops, 1.0, 0.0)).seconds
        for link, (bandwidth, latency) in LINKS.items():
            for machines in (2, 4, 8):
                speed = Speed(flops, bandwidth, latency)
                found = {how: estimate(sizes, every, how, machines, speed) for how in (PASSES, TOKENS, TENSOR)}
                report(
                    projected=True, mac=mac, link=link, machines=machines, alone=round(alone, 2),
                    **{how: round(one.seconds, 2) for how, one in found.items()},
                    megabytes={how: one.bytes >> 20 for how, one in found.items()},
                )  # fmt: skip


if __name__ == "__main__":
    main()
