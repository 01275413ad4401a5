"""A small model pair, official and ours, and adapters written to files without this project's code."""

import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from safetensors.numpy import save_file

import tests.reference.transformer as official
from mlx_ltxw.adapter.names import WHISPER_MODULES
from mlx_ltxw.models.transformer import Modality, Transformer, TransformerConfig, rotary
from tests.reference.weights import load_official

SECTION = official.small_config()
LEAVES = ("to_q", "to_k", "to_v", "to_out.0")
TARGETS = [f"transformer_blocks.{i}.{m}.{leaf}" for i in range(2) for m in WHISPER_MODULES for leaf in LEAVES]


def model_pair(seed=0):
    """The official model and ours with the same fp32 weights."""
    reference = official.build(SECTION, seed)
    model = Transformer(TransformerConfig.read(SECTION))
    load_official(model, reference)
    return model, reference


def shapes(reference):
    """Official linear name -> (out, in), from PyTorch's modules."""
    return {n: tuple(m.weight.shape) for n, m in reference.named_modules() if isinstance(m, torch.nn.Linear)}


def factors(sizes, targets=TARGETS, rank=4, seed=1, size=0.3):
    """Official name -> (A (rank, in), B (out, rank)), fp32; `rank` a number or a function of the name."""
    draw = np.random.default_rng(seed)
    result = {}
    for name in targets:
        out, into = sizes[name]
        r = rank(name) if callable(rank) else rank
        a = draw.standard_normal((r, into)) / math.sqrt(into)
        b = draw.standard_normal((out, r)) * size / math.sqrt(r)
        result[name] = (a.astype(np.float32), b.astype(np.float32))
    return result


def save(path: Path, tensors, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, metadata)
    return path


def official_file(path, pairs, prefix="diffusion_model.", metadata=None):
    tensors = {}
    for name, (a, b) in pairs.items():
        tensors[f"{prefix}{name}.lora_A.weight"] = a
        tensors[f"{prefix}{name}.lora_B.weight"] = b
    return save(path, tensors, metadata)


def inputs(seed=0, video_tokens=(2, 3, 5), audio_tokens=7, sigmas=(0.8, 0.6)):
    """Video and audio arrays for the official `Modality`; 30 video, 7 audio and 6 text tokens."""
    draw = np.random.default_rng(seed)
    frames, height, width = video_tokens
    grid = np.stack(np.meshgrid(*map(np.arange, (frames, height, width)), indexing="ij")).reshape(3, -1)
    step = np.array([[8 / 24], [32], [32]])
    starts = np.arange(audio_tokens)[None] * 0.04
    positions = (np.stack([grid * step, grid * step + step], -1)[None], np.stack([starts, starts + 0.04], -1)[None])
    config = TransformerConfig.read(SECTION)
    result = []
    for stream, where, sigma in zip((config.video, config.audio), positions, sigmas, strict=True):
        arrays = {
            "latent": draw.standard_normal((1, where.shape[2], stream.in_channels)),
            "sigma": np.full(1, sigma),
            "timesteps": np.full((1, 1), sigma),
            "positions": where,
            "context": draw.standard_normal((1, 6, stream.context_dim)),
        }
        result.append({name: value.astype(np.float32) for name, value in arrays.items()})
    return result


def forward(model, arrays):
    """Our velocities (video, audio) as NumPy arrays."""
    modalities = []
    for stream, a in zip((model.config.video, model.config.audio), arrays, strict=True):
        rotation = rotary(model.config, stream, a["positions"].mean(axis=-1), mx.float32)
        modalities.append(Modality(*(mx.array(a[k]) for k in ("latent", "sigma", "timesteps", "context")), rotation))
    return [np.asarray(out) for out in model(*modalities)]


@torch.inference_mode()
def reference_forward(reference, arrays):
    """The official velocities (video, audio)."""
    out = reference(*(official.modality(a) for a in arrays), official.perturbations(1, {}))
    return [x.numpy() for x in out]
