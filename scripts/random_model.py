"""The full-size networks with random weights drawn on the device, and what the measuring scripts share; no PyTorch."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx_ltxw.blas  # first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_ltxw.adapter.deltas import LowRank
from mlx_ltxw.adapter.formats import Adapter
from mlx_ltxw.machine import settle, this_machine
from mlx_ltxw.models.ops.device import backend
from mlx_ltxw.models.transformer import Modality, Transformer, TransformerConfig, rotary
from mlx_ltxw.models.transformer.merged import MERGED
from mlx_ltxw.pipeline.geometry import Geometry, LatentGrid
from mlx_ltxw.pipeline.networks import lay_together
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.gradient.fresh import fresh_adapter
from scripts.random_values import mean_and_spread

GRID = LatentGrid(frames=8, height=32, width=32, mel_seconds=0.01, mel_frames=4)
SIGMA = 0.725
REAL_CONFIG = Path(__file__).resolve().parents[1] / "tests" / "data" / "ltx23_config.json"
VARIABLES = ("MLX_MAX_OPS_PER_BUFFER", "MLX_MAX_MB_PER_BUFFER", "MLX_ENABLE_TF32", "MLX_USE_CUDA_GRAPHS")
ADAPTER_SPREAD = 0.02
"""Deviation of a random adapter's B; its change is then about 7 % of a random weight."""

_NARROWED = ("attention_head_dim", "audio_attention_head_dim", "cross_attention_dim", "audio_cross_attention_dim")


def report(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def model_options(width: int, height: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The click options of the clip's size and the model, with defaults for the former."""
    options = (
        click.option("--width", default=width),
        click.option("--height", default=height),
        click.option("--frames", default=97),
        click.option("--frame-rate", default=24.0),
        click.option("--text-tokens", default=1024, help="Text context; 1024 in every real run."),
        click.option("--layers", type=int, help="Fewer blocks than the config says."),
        click.option("--scale", default=1, help="Divides the widths, to try the script out on a CPU."),
        click.option("--config", type=click.Path(exists=True, path_type=Path), default=REAL_CONFIG),
    )
    return lambda command: functools.reduce(lambda inner, option: option(inner), reversed(options), command)


def read_sections(config: Path, layers: int | None, scale: int) -> dict[str, Any]:
    """The checkpoint's config, with fewer blocks if `layers` says so and widths divided by `scale`."""
    sections = json.loads(config.read_text())
    transformer, vae = sections["transformer"], sections["vae"]
    transformer |= {name: transformer[name] // scale for name in _NARROWED}
    transformer |= {"num_layers": layers} if layers else {}
    vae["decoder_base_channels"] //= scale
    return sections


def environment(geometry: Geometry, **more: Any) -> dict[str, Any]:
    """What a figure is worth nothing without: device, versions, MLX's variables, the clip's size."""
    return {
        "device": mx.device_info().get("device_name"),
        "mlx_device": str(mx.default_device()),
        "mlx": version("mlx"),
        "mlx_ltxw": mlx_ltxw.__version__,
        "python": platform.python_version(),
        **{name: os.environ.get(name) for name in VARIABLES},
        "size": f"{geometry.width}x{geometry.height}x{geometry.frames}",
        "video_tokens": geometry.video_tokens,
        "audio_tokens": geometry.audio_tokens,
        **more,
    }


def begin(geometry: Geometry, **more: Any) -> None:
    """Sets this process as a run does, and reports what is measured on what."""
    settle()
    cache_limit = this_machine().cache_limit
    mx.set_cache_limit(cache_limit)
    report(**environment(geometry, cache_limit=cache_limit, **more))


def fill_randomly(network: nn.Module, dtype: mx.Dtype) -> None:
    """Seeded weights for every parameter, so scaled that activations stay finite: tables fp32, all else `dtype`."""
    arrays = []
    for index, (name, parameter) in enumerate(tree_flatten(network.parameters())):
        mean, spread = mean_and_spread(name, parameter.shape)
        value = mx.random.normal(parameter.shape, key=mx.random.key(index)) * spread + mean
        value = value.astype(mx.float32 if "table" in name else dtype)
        mx.eval(value)
        arrays.append((name, value))
    network.load_weights(arrays, strict=True)
    mx.clear_cache()


def as_loaded(model: Transformer) -> Transformer:
    """The same model as a run on this machine has it: linears of one input lie together where that is quicker."""
    if MERGED[backend()]:
        lay_together(model)
    return model


def random_adapter(model: nn.Module) -> Adapter:
    """A rank-32 LoRA on the whisper adapter's modules whose B is not zero."""
    fresh = fresh_adapter(model, TrainConfig())
    deltas = {}
    for index, (path, delta) in enumerate(fresh.deltas.items()):
        assert isinstance(delta, LowRank)
        b = ADAPTER_SPREAD * mx.random.normal(delta.b.shape, key=mx.random.key(index))
        deltas[path] = LowRank(delta.a, b, delta.scale)
    return dataclasses.replace(fresh, deltas=dict(deltas))


def weight_bytes(network: nn.Module) -> int:
    """Of all parameters."""
    return sum(value.nbytes for _, value in tree_flatten(network.parameters()))


def inputs(config: TransformerConfig, geometry: Geometry, text_tokens: int) -> list[dict[str, np.ndarray]]:
    """Random noisy tokens and text of both streams, as NumPy arrays with the fields of the official `Modality`."""
    draw = np.random.default_rng(0)
    result = []
    for stream, midpoints in (
        (config.video, geometry.video_positions()),
        (config.audio, geometry.audio_positions()),
    ):
        tokens = midpoints.shape[-1]
        result.append(
            {
                "latent": draw.standard_normal((1, tokens, stream.in_channels), np.float32),
                "sigma": np.full(1, SIGMA, np.float32),
                "timesteps": np.full((1, 1), SIGMA, np.float32),
                "positions": np.stack([midpoints, midpoints], axis=-1),
                "context": draw.standard_normal((1, text_tokens, stream.context_dim), np.float32),
            }
        )
    return result


def mlx_inputs(
    config: TransformerConfig, arrays: list[dict[str, np.ndarray]], dtype: mx.Dtype = mx.bfloat16
) -> list[Modality]:
    """The same as MLX takes them: latents, text and rotations in `dtype`."""
    return [
        Modality(
            mx.array(stream["latent"]).astype(dtype),
            mx.array(stream["sigma"]),
            mx.array(stream["timesteps"]),
            mx.array(stream["context"]).astype(dtype),
            rotary(config, half, stream["positions"][..., 0], dtype),
        )
        for half, stream in zip((config.video, config.audio), arrays, strict=True)
    ]


def timed(forward: Callable[[], Any], runs: int) -> tuple[Any, list[float]]:
    """The last outputs, and seconds of each run after one that is not counted."""
    outputs, seconds = forward(), []
    for _ in range(runs):
        start = time.perf_counter()
        outputs = forward()
        seconds.append(round(time.perf_counter() - start, 4))
    return outputs, seconds


def evaluated(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    def call() -> Any:
        outputs = function(*arguments)
        mx.eval(outputs)
        return outputs

    return call


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want.astype(np.float64)))


def wide(x: mx.array) -> np.ndarray:
    """On the host, fp32."""
    return np.asarray(x.astype(mx.float32))


def median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 4)


def per_cent_over(values: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """How much longer `values` are than the `others` measured beside them: of the medians, and the median of pairs."""
    return {
        "of_medians": round(100 * (statistics.median(values) / statistics.median(others) - 1), 2),
        "median_of_pairs": round(100 * (statistics.median(a / b for a, b in zip(values, others, strict=True)) - 1), 2),
    }
