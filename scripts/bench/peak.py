"""Seconds and peak memory beyond the weights of each network at full size, with random weights.

    python -m scripts.bench.peak --network forward --width 704 --height 480 --frames 97
    python -m scripts.bench.peak --network video --network vocoder --seconds 60

Prints one JSON object a line. `beyond` is MLX's peak less what was allocated before the call: the weights and the
inputs. Needs 40 GB for the transformer, 3 GB for the others. To try it out on a CPU: --layers 2 --scale 8 --width 64
--height 64 --frames 9 --text-tokens 32 --runs 1 --seconds 1
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx
import numpy as np

from mlx_ltxw.models.audio_vae import AudioVAE, AudioVAEConfig, VocoderConfig, VocoderWithBWE, log_mel
from mlx_ltxw.models.transformer import NO_SKIPS, Transformer, TransformerConfig, Walk
from mlx_ltxw.models.video_vae import VideoVAE, VideoVAEConfig
from mlx_ltxw.pipeline.decode import decode_video
from mlx_ltxw.pipeline.encode import encode_frames
from mlx_ltxw.pipeline.geometry import Geometry
from scripts.random_model import (
    GRID,
    as_loaded,
    begin,
    fill_randomly,
    inputs,
    median,
    mlx_inputs,
    model_options,
    read_sections,
    report,
)

DTYPE = mx.bfloat16
NETWORKS = ("forward", "video", "video-encoder", "audio", "vocoder")


def filled(network: Any) -> Any:
    """The network with random weights."""
    fill_randomly(network, DTYPE)
    return network


def measure(what: str, call: Callable[[], Any], runs: int, **more: Any) -> Any:
    """Reports the median of some runs after one that is not counted, and the largest peak of these."""
    call()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    seconds, made = [], None
    for _ in range(runs):
        clock = time.perf_counter()
        made = call()
        seconds.append(time.perf_counter() - clock)
    report(
        what=what, seconds=median(seconds), beyond_gb=round((mx.get_peak_memory() - before) / 1e9, 3),
        allocated_before_gb=round(before / 1e9, 3), cache_gb=round(mx.get_cache_memory() / 1e9, 3), **more,
    )  # fmt: skip
    return made


def evaluated(call: Callable[[], Any]) -> Any:
    """What the call gives, evaluated."""
    made = call()
    mx.eval(made)
    return made


def forward(sections: dict[str, Any], geometry: Geometry, text_tokens: int, runs: int) -> None:
    """A forward with no bound, bounded as the pipeline has it, and under the lock (with the base's own weights)."""
    config = TransformerConfig.read(sections["transformer"])
    model = as_loaded(filled(Transformer(config)))
    video, audio = mlx_inputs(config, inputs(config, geometry, text_tokens), DTYPE)
    mx.eval(video, audio)
    whole = measure("forward, unbounded", lambda: evaluated(lambda: model(video, audio, NO_SKIPS, Walk(1))), runs)
    walk = Walk.bounded()
    bounded = measure("forward", lambda: evaluated(lambda: model(video, audio, NO_SKIPS, walk)), runs)
    report(
        what="bounded equals unbounded",
        equal=all(bool(mx.array_equal(*pair)) for pair in zip(whole, bounded, strict=True)),
    )
    locked = measure(
        "forward, locked", lambda: evaluated(lambda: model.locked(model, video, audio, audio, NO_SKIPS, walk)), runs
    )
    report(what="lock keeps the video", equal=bool(mx.array_equal(locked[0], bounded[0])))


def video(sections: dict[str, Any], geometry: Geometry, runs: int) -> None:
    """Decoding, tiled as the pipeline does it."""
    vae = filled(VideoVAE(VideoVAEConfig.read(sections["vae"])))
    networks: Any = SimpleNamespace(video_vae=lambda: vae, dtype=DTYPE)
    tokens = mx.random.normal((1, geometry.video_tokens, vae.config.latent_channels), key=mx.random.key(0))
    mx.eval(tokens)
    measure("video decode", lambda: [len(chunk) for chunk in decode_video(networks, tokens, geometry)], runs)


def video_encoder(sections: dict[str, Any], geometry: Geometry, runs: int) -> None:
    """Encoding all frames of the clip."""
    vae = filled(VideoVAE(VideoVAEConfig.read(sections["vae"])))
    frames = np.zeros((geometry.frames, geometry.height, geometry.width, 3), np.uint8)
    measure("video encode", lambda: encode_frames(vae, frames, DTYPE), runs)


def audio(sections: dict[str, Any], seconds: float, runs: int) -> None:
    """The spectrum and the audio VAE, both ways."""
    vae = filled(AudioVAE(AudioVAEConfig.read(sections["audio_vae"])))
    sound = mx.random.normal((1, round(seconds * vae.config.sample_rate), 2), key=mx.random.key(0)) * 0.1
    mx.eval(sound)
    tokens = measure(
        "audio encode", lambda: evaluated(lambda: vae.encode(log_mel(sound, vae.config))), runs, clip_seconds=seconds
    )
    measure("audio decode", lambda: evaluated(lambda: vae.decode(tokens)), runs, clip_seconds=seconds)


def vocoder(sections: dict[str, Any], seconds: float, runs: int) -> None:
    """The vocoder with bandwidth extension."""
    network = filled(VocoderWithBWE(VocoderConfig.read(sections["vocoder"])))
    mel = mx.random.normal((1, round(seconds * 100), 64, 2), key=mx.random.key(0))
    mx.eval(mel)
    measure("vocoder", partial(evaluated, lambda: network(mel)), runs, clip_seconds=seconds)


@click.command()
@model_options(704, 480)
@click.option("--network", "networks", type=click.Choice(NETWORKS), multiple=True, default=NETWORKS)
@click.option("--seconds", multiple=True, type=float, default=(4, 20, 60), help="Lengths of the sounds.")
@click.option("--runs", default=7, help="Timed calls after one that is not counted.")
def main(
    width: int, height: int, frames: int, frame_rate: float, text_tokens: int, layers: int | None, scale: int,
    config: Any, networks: tuple[str, ...], seconds: tuple[float, ...], runs: int,
) -> None:  # fmt: skip
    """Measures how much memory each network needs beyond its weights."""
    sections = read_sections(config, layers, scale)
    geometry = Geometry(width, height, frames, frame_rate, GRID)
    begin(geometry, text_tokens=text_tokens)
    if "forward" in networks:
        forward(sections, geometry, text_tokens, runs)
    if "video" in networks:
        video(sections, geometry, runs)
    if "video-encoder" in networks:
        video_encoder(sections, geometry, runs)
    for length in seconds:
        if "audio" in networks:
            audio(sections, length, runs)
        if "vocoder" in networks:
            vocoder(sections, length, runs)


if __name__ == "__main__":
    main()
