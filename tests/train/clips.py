"""Small models and made clips for the training tests."""

import json
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_ltxw.adapter.apply import attach
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.models.transformer import Transformer, TransformerConfig, rotary
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.gradient.fresh import fresh_adapter
from mlx_ltxw.train.gradient.layout import Layout
from mlx_ltxw.train.gradient.step import Draw, Group, Objective


@dataclass
class Small:
    """A small model with an adapter whose B is not zero, a group of clips and noise; and the same in NumPy."""

    model: Transformer
    config: TrainConfig
    layout: Layout
    parameters: mx.array
    group: Group
    draw: Draw
    arrays: dict


def small(model, config, clips=2, audio_tokens=7, video_size=(2, 3, 5), seed=0, picture=True):
    random = np.random.default_rng(seed)
    layout, fresh = Layout.of(fresh_adapter(model, config))
    parameters = fresh + 0.1 * mx.array(random.standard_normal(fresh.shape).astype(np.float32))
    arrays = {"audio_positions": intervals(np.arange(audio_tokens)[None] * 0.04, 0.04)}
    frames, height, width = video_size
    grid = np.stack(np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")).reshape(3, -1)
    arrays["video_positions"] = intervals(grid * np.array([[8 / 24], [32], [32]]), np.array([[8 / 24], [32], [32]]))
    draws = config.audio_draws
    streams = {"audio": (model.config.audio, audio_tokens), "video": (model.config.video, grid.shape[1])}
    for name, (stream, tokens) in streams.items():
        arrays[name] = random.standard_normal((clips, tokens, stream.in_channels))
        arrays[f"{name}_context"] = random.standard_normal((clips, 6, stream.context_dim))
        arrays[f"{name}_noise"] = random.standard_normal((clips, draws, tokens, stream.in_channels))
        arrays[f"{name}_sigma"] = random.uniform(0.1, 0.9, (clips, draws))
    arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
    names = ["audio", "audio_context"] + (["video", "video_context"] if picture else [])
    group = {name: mx.array(arrays[name]) for name in names}
    group["keys"] = mx.array(np.arange(2 * clips, dtype=np.uint32).reshape(clips, 2))
    for name, (stream, _) in streams.items():
        midpoints = arrays[f"{name}_positions"].mean(axis=-1)[None]
        tables = rotary(model.config, stream, midpoints, mx.float32)
        group |= {f"{name}_rotary": tables} if picture or name == "audio" else {}
    draw = Draw(mx.array(arrays["audio_noise"]), mx.array(arrays["audio_sigma"]))
    if picture:
        video = mx.array(arrays["video_noise"][:, 0]), mx.array(arrays["video_sigma"][:, 0])
        draw = Draw(draw.audio, draw.audio_sigma, *video)
    return Small(model, config, layout, parameters, Group(**group), draw, arrays)


def intervals(start, length):
    return np.stack([start, start + length], axis=-1)


def objective(case, config=None):
    """Of a case, with other options if given."""
    adapted = attach(case.model, [(fresh_adapter(case.model, case.config), Strength())])
    return Objective(case.model, adapted, case.layout, config or case.config)


def gradient(case, config=None):
    """-> (gradient (N,), (2,) losses), as NumPy."""
    count = case.group.audio.shape[0]
    results = objective(case, config).gradient(case.parameters, case.group, case.draw, mx.array(1 / count))
    return [np.asarray(result) for result in results]


def factors(case, flat):
    """Name -> factor, as the official trainer's adapter would have it."""
    parts = [np.asarray(part) for part in case.layout.factors(mx.array(flat))]
    names = [f"{path}.lora_{side}" for path in case.layout.paths for side in "AB"]
    return dict(zip(names, parts, strict=True))


def build_model(section, seed=0):
    """The official model, and ours with its weights."""
    import tests.reference.transformer as official
    from tests.reference.weights import load_official

    reference = official.build(section, seed)
    model = Transformer(TransformerConfig.read(section))
    load_official(model, reference)
    return model, reference


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
