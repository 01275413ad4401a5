"""What the exact video lock costs at full size, and that it keeps its promise, with random weights on one GPU.

Needs a GPU with 60 GB and no PyTorch. A forward, then a whole run of each schedule through the pipeline's own denoiser
and decoder:

    python -m scripts.bench.lock --whole-run
    MLX_MAX_OPS_PER_BUFFER=200 python -m scripts.bench.lock --layers 8 --runs 5

Prints one JSON object a line. Three kinds of run are measured in turn, so that drift meets all alike: `plain` (no
adapter), `fused` (a rank-32 adapter in the weights, without the lock) and `locked` (base and adapted audio side by
side). Peaks are MLX's own, with the base and both clones in memory; `beyond` is a peak less what was allocated when it
began.

To try it out on a CPU: --layers 2 --scale 8 --width 128 --height 128 --frames 25 --text-tokens 64 --runs 2 --whole-run
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx
import numpy as np

from mlx_ltxw.adapter.apply import round_factors
from mlx_ltxw.adapter.fuse import fuse
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.machine import this_machine
from mlx_ltxw.models.transformer import NO_SKIPS, Transformer, TransformerConfig, Walk
from mlx_ltxw.models.video_vae import VideoVAE, VideoVAEConfig
from mlx_ltxw.pipeline.adapters import reads_video
from mlx_ltxw.pipeline.contexts import Contexts
from mlx_ltxw.pipeline.decode import decode_video
from mlx_ltxw.pipeline.denoise import Denoiser, rotaries
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.guidance import DEV_AUDIO, DEV_VIDEO, NO_GUIDANCE, Guidance, passes
from mlx_ltxw.pipeline.latents import Latents, noise
from mlx_ltxw.pipeline.samplers import euler, no_noise
from mlx_ltxw.pipeline.schedule import DISTILLED_SIGMAS, ltx2_sigmas
from mlx_ltxw.pipeline.streams import AdaptedStream
from mlx_ltxw.weights.dtype import default_dtype
from scripts.random_model import (
    GRID,
    as_loaded,
    begin,
    evaluated,
    fill_randomly,
    inputs,
    median,
    mlx_inputs,
    model_options,
    per_cent_over,
    random_adapter,
    read_sections,
    relative_error,
    report,
    weight_bytes,
    wide,
)

KINDS = ("plain", "fused", "locked")
SEED = 10


@dataclass(frozen=True)
class Models:
    """The base transformer, and its clones with the adapter: in all weights, and as the lock has it."""

    base: Transformer
    fused: Transformer
    adapted: Transformer

    def of(self, kind: str) -> tuple[Transformer, list[AdaptedStream]]:
        """What a `Denoiser` takes: its model, and the adapted stream under the lock."""
        return (self.fused if kind == "fused" else self.base), [AdaptedStream(self.adapted)] * (kind == "locked")


@dataclass(frozen=True)
class Schedule:
    """The noise levels and the guidance of one of the two models."""

    name: str
    sigmas: np.ndarray
    video: Guidance
    audio: Guidance


def build(config: TransformerConfig, dtype: mx.Dtype) -> Models:
    """All three, set up as the pipeline does; reports their sizes and how long the making took."""
    clock = time.perf_counter()
    base = Transformer(config)
    fill_randomly(base, dtype)
    as_loaded(base)
    drawn = time.perf_counter()
    adapters = [(random_adapter(base), Strength())]
    fused = fuse(base, adapters)
    locked = fuse(base, adapters, keep_unfused=reads_video)
    round_factors(locked.model, dtype)
    mx.eval(fused.model.parameters(), locked.model.parameters())
    mx.clear_cache()
    report(
        what="models", dtype=str(dtype), layers=config.layers, base_bytes=weight_bytes(base),
        active_bytes=mx.get_active_memory(), summary=[fused.summary, locked.summary],
        seconds_to_draw=round(drawn - clock, 2), seconds_to_fuse=round(time.perf_counter() - drawn, 2),
    )  # fmt: skip
    return Models(base, fused.model, locked.model)


@dataclass(frozen=True)
class Measured:
    """One call: what it gave, its seconds, MLX's peak, and how far that lay above what was allocated before."""

    outputs: Any
    seconds: float
    peak: int
    beyond: int


def measured(call: Callable[[], Any]) -> Measured:
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    clock = time.perf_counter()
    outputs = call()
    seconds = time.perf_counter() - clock
    return Measured(outputs, round(seconds, 4), mx.get_peak_memory(), mx.get_peak_memory() - before)


def measure_forwards(models: Models, streams: Sequence[Any], runs: int, warmup: int) -> None:
    """Times the three kinds in turn, and compares their outputs in every round."""
    video, audio = streams
    walk = Walk.bounded(this_machine().in_pieces)
    calls = {
        "plain": evaluated(models.base, video, audio, NO_SKIPS, walk),
        "fused": evaluated(models.fused, video, audio, NO_SKIPS, walk),
        "locked": evaluated(models.base.locked, models.adapted, video, audio, audio, NO_SKIPS, walk),
    }
    for _ in range(warmup):
        for call in calls.values():
            call()
    rounds = [{kind: measured(call) for kind, call in calls.items()} for _ in range(runs)]
    seconds = {kind: [each[kind].seconds for each in rounds] for kind in KINDS}
    for kind in KINDS:
        report(
            what=f"forward, {kind}", seconds=seconds[kind], median=median(seconds[kind]),
            peak=max(each[kind].peak for each in rounds), beyond=max(each[kind].beyond for each in rounds),
        )  # fmt: skip
    report(
        what="the lock over a forward, per cent",
        over_fused=per_cent_over(seconds["locked"], seconds["fused"]),
        over_plain=per_cent_over(seconds["locked"], seconds["plain"]),
        fused_over_plain=per_cent_over(seconds["fused"], seconds["plain"]),
    )
    report(what="forwards compared", **compare_forwards(rounds))


def compare_forwards(rounds: Sequence[dict[str, Measured]]) -> dict[str, Any]:
    """Whether the lock keeps video and base audio in every round, and proof that there was something to keep."""
    first = rounds[0]["plain"]
    plain, fused, locked = (rounds[-1][kind].outputs for kind in KINDS)
    return {
        "locked_video_identical": all(equal(r["locked"].outputs[0], r["plain"].outputs[0]) for r in rounds),
        "locked_base_audio_identical": all(equal(r["locked"].outputs[1], r["plain"].outputs[1]) for r in rounds),
        "plain_repeats_itself": all(equal(r["plain"].outputs[i], first.outputs[i]) for r in rounds for i in range(2)),
        "finite": all(finite(x) for x in (*plain, *fused, *locked)),
        "video_deviation": float(np.std(wide(plain[0]))),
        "adapted_audio_from_base": relative_error(wide(locked[2]), wide(locked[1])),
        "fused_video_from_plain": relative_error(wide(fused[0]), wide(plain[0])),
        "fused_audio_from_plain": relative_error(wide(fused[1]), wide(plain[1])),
    }


def equal(x: mx.array, y: mx.array) -> bool:
    """To the last bit; a NaN equals nothing."""
    return x.dtype == y.dtype and bool(mx.array_equal(x, y))


def finite(x: mx.array) -> bool:
    return bool(mx.all(mx.isfinite(x)))


def schedules(layers: int) -> list[Schedule]:
    """Six steps with the dev model's four passes, and the distilled model's eight steps of one pass."""
    block = (min(DEV_VIDEO.stg_blocks[0], layers - 1),)  # 28 in a whole model
    guidance = (dataclasses.replace(each, stg_blocks=block) for each in (DEV_VIDEO, DEV_AUDIO))
    return [
        Schedule("dev", ltx2_sigmas(6), *guidance),
        Schedule("distilled", np.array(DISTILLED_SIGMAS, np.float32), NO_GUIDANCE, NO_GUIDANCE),
    ]


def random_contexts(config: TransformerConfig, tokens: int, dtype: mx.Dtype) -> Contexts:
    """Of a prompt and a negative prompt."""
    keys = mx.random.split(mx.random.key(SEED), 2)
    widths = (config.video.context_dim, config.audio.context_dim)
    video, audio = (
        mx.random.normal((2, tokens, width), key=key).astype(dtype) for width, key in zip(widths, keys, strict=True)
    )
    mx.eval(video, audio)
    return Contexts(video, audio)


def whole_run(
    models: Models, kind: str, schedule: Schedule, contexts: Contexts, geometry: Geometry
) -> tuple[Latents, list[float]]:
    """Denoises one clip after a step that is not counted; reports, and returns the last latents and each second."""
    (model, adapted), dtype = models.of(kind), default_dtype()
    config = model.config
    rotary, walk = rotaries(model, geometry, dtype), Walk.bounded(this_machine().in_pieces)
    denoiser = Denoiser(model, adapted, contexts, schedule.video, schedule.audio, *rotary, dtype, walk=walk)
    start = noise(geometry, config.video.in_channels, config.audio.in_channels, SEED)
    start = start._replace(adapted=start.audio if adapted else None)
    next(euler(denoiser, start, schedule.sigmas[:2], no_noise))
    seconds, latents = [], start
    mx.reset_peak_memory()
    clock = time.perf_counter()
    for latents in euler(denoiser, start, schedule.sigmas, no_noise):  # noqa: B007  the last ones are the result
        seconds.append(round(time.perf_counter() - clock, 4))
        clock = time.perf_counter()
    report(
        what=f"whole run, {schedule.name}, {kind}", steps=len(seconds),
        passes=[run.name for run in passes(schedule.video, schedule.audio, config.layers)],
        seconds=round(sum(seconds), 3), seconds_a_step=seconds, peak=mx.get_peak_memory(),
        finite={name: finite(latent) for name, latent in latents._asdict().items() if latent is not None},
        deviation={name: float(mx.std(latent)) for name, latent in latents._asdict().items() if latent is not None},
    )  # fmt: skip
    return latents, seconds


def picture(vae: VideoVAE, latents: Latents, geometry: Geometry) -> tuple[np.ndarray, float]:
    """Frames (F, H, W, 3) uint8 by the pipeline's own decoding, and its seconds."""
    networks: Any = SimpleNamespace(video_vae=lambda: vae, dtype=default_dtype())
    assert latents.video is not None
    clock = time.perf_counter()
    frames = np.concatenate(list(decode_video(networks, latents.video, geometry)))
    return frames, round(time.perf_counter() - clock, 2)


def compare_runs(models: Models, schedule: Schedule, contexts: Contexts, vae: VideoVAE, geometry: Geometry) -> None:
    """Whole runs of all three kinds, their pictures decoded, and what differs."""
    latents, seconds = {}, {}
    for kind in KINDS:
        latents[kind], seconds[kind] = whole_run(models, kind, schedule, contexts, geometry)
    report(
        what=f"the lock over a whole run, {schedule.name}, per cent",
        over_fused=per_cent_over(seconds["locked"], seconds["fused"]),
        over_plain=per_cent_over(seconds["locked"], seconds["plain"]),
        total_over_fused=round(100 * (sum(seconds["locked"]) / sum(seconds["fused"]) - 1), 2),
    )
    mx.clear_cache()
    decoded = {kind: picture(vae, latents[kind], geometry) for kind in KINDS}
    frames = {kind: pixels for kind, (pixels, _) in decoded.items()}
    plain, fused, locked = (latents[kind] for kind in KINDS)
    assert plain.video is not None
    assert fused.video is not None
    assert locked.video is not None
    assert locked.adapted is not None
    report(
        what=f"whole runs compared, {schedule.name}",
        locked_video_latents_identical=equal(locked.video, plain.video),
        locked_base_audio_identical=equal(locked.audio, plain.audio),
        locked_frames_identical=bool(np.array_equal(frames["locked"], frames["plain"])),
        frames=list(frames["plain"].shape),
        picture_deviation={kind: float(np.std(pixels)) for kind, pixels in frames.items()},
        clipped=float(np.mean((frames["plain"] == 0) | (frames["plain"] == 255))),
        adapted_audio_from_base=relative_error(wide(locked.adapted), wide(locked.audio)),
        fused_video_latents_from_plain=relative_error(wide(fused.video), wide(plain.video)),
        fused_pixels_changed=float(np.mean(frames["fused"] != frames["plain"])),
        seconds_to_decode={kind: seconds for kind, (_, seconds) in decoded.items()},
    )


@click.command()
@model_options(704, 480)
@click.option("--runs", default=10, help="Timed forwards of each kind.")
@click.option("--warmup", default=2, help="Forwards of each kind that are not counted.")
@click.option("--whole-run", "whole", is_flag=True, help="Complete denoising runs and their decoded pictures too.")
def main(
    width: int, height: int, frames: int, frame_rate: float, text_tokens: int, layers: int | None, scale: int,
    config: Path, runs: int, warmup: int, whole: bool,
) -> None:  # fmt: skip
    """Measures what the exact video lock costs, and that video and base audio stay what they are."""
    sections = read_sections(config, layers, scale)
    geometry = Geometry(width, height, frames, frame_rate, GRID)
    geometry.check()
    begin(geometry, text_tokens=text_tokens, scale=scale)
    transformer, dtype = TransformerConfig.read(sections["transformer"]), default_dtype()
    models = build(transformer, dtype)
    streams = mlx_inputs(transformer, inputs(transformer, geometry, text_tokens), dtype)
    measure_forwards(models, streams, runs, warmup)
    if not whole:
        return
    vae = VideoVAE(VideoVAEConfig.read(sections["vae"]))
    fill_randomly(vae.decoder, dtype)
    contexts = random_contexts(transformer, text_tokens, dtype)
    for schedule in schedules(transformer.layers):
        compare_runs(models, schedule, contexts, vae, geometry)


if __name__ == "__main__":
    main()
