"""The 19B transformer at full size with random weights: MLX against the official PyTorch classes, on one GPU.

Needs a CUDA GPU with about 90 GB, PyTorch, ltx-core, and MLX's CUDA backend (`pip install "mlx-ltxw[cuda,dev]"`):

    python -m scripts.bench.official --width 704 --height 480 --frames 97

Prints one JSON object a line: times a forward, peak memory, the relative error of the official bf16 run and of MLX's
bf16 run against the official fp32 run, and what the exact video lock costs. The same random bf16 weights serve all.
"""

from __future__ import annotations

import functools
import gc
import json
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten

import mlx_ltxw
from mlx_ltxw.machine import settle
from mlx_ltxw.models.transformer import Transformer, TransformerConfig
from mlx_ltxw.pipeline.geometry import Geometry
from scripts.random_model import GRID, as_loaded, evaluated, inputs, mlx_inputs, relative_error, report, timed
from tests.reference import transformer as official

LOCKED_MODULES = ("audio_attn1", "audio_attn2", "video_to_audio_attn")


def random_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Seeded weights for every parameter of a model on the meta device: tables fp32, all else bf16, on the GPU."""
    for index, (name, parameter) in enumerate(model.named_parameters()):
        generator = torch.Generator("cuda").manual_seed(index)
        scale = 0.1 if parameter.ndim == 1 or "table" in name else parameter.shape[-1] ** -0.5
        value = torch.randn(parameter.shape, generator=generator, device="cuda") * scale
        if name.endswith("norm.weight"):
            value += 1.0
        yield name, value if "table" in name else value.bfloat16()


def build_official(section: dict[str, Any], dtype: torch.dtype) -> torch.nn.Module:
    """The official model on the GPU, holding the same values in either dtype."""
    with torch.device("meta"):
        model = official.configured(section)
    owners = dict(model.named_modules())
    for name, value in list(random_weights(model)):
        owner, _, leaf = name.rpartition(".")
        setattr(owners[owner], leaf, torch.nn.Parameter(value.to(value.dtype if "table" in name else dtype), False))
    return official.newest(model).eval()


def run_official(model: torch.nn.Module, arrays: list[dict[str, np.ndarray]], dtype: torch.dtype, runs: int) -> Any:
    """Outputs as fp32 NumPy arrays, and seconds of each timed forward."""
    streams = []
    for stream in arrays:
        moved = {name: torch.from_numpy(value).cuda() for name, value in stream.items()}
        moved |= {name: moved[name].to(dtype) for name in ("latent", "context")}
        streams.append(official.Modality(**moved))
    nothing = official.perturbations(1, {})

    def forward() -> Any:
        with torch.inference_mode():
            outputs = model(*streams, nothing)
        torch.cuda.synchronize()
        return outputs

    outputs, seconds = timed(forward, runs)
    return [x.float().cpu().numpy() for x in outputs], seconds


def build_mlx(section: dict[str, Any]) -> Transformer:
    """MLX's model with the same weights, copied tensor by tensor through the host."""
    model = Transformer(TransformerConfig.read(section))
    with torch.device("meta"):
        names = official.configured(section)
    arrays = []
    for name, value in random_weights(names):
        if value.dtype == torch.bfloat16:
            array = mx.array(value.view(torch.uint16).cpu().numpy()).view(mx.bfloat16)
        else:
            array = mx.array(value.cpu().numpy())
        mx.eval(array)
        arrays.append((name, array))
    model.load_weights(arrays, strict=True)
    return as_loaded(model)


def adapted_copy(model: Transformer) -> Transformer:
    """A second transformer that shares every array but the weights an audio adapter changes."""
    copy = Transformer(model.config)
    copy.update(model.parameters())
    for block in copy.transformer_blocks:
        for name in LOCKED_MODULES:
            for linear in (block[name].to_q, block[name].to_k, block[name].to_v, block[name].to_out[0]):
                linear.weight = linear.weight * 1.01
    mx.eval(copy.parameters())
    return copy


def measure_mlx(section: dict[str, Any], arrays: list[dict[str, np.ndarray]], size: str, runs: int) -> list[np.ndarray]:
    """Reports MLX's times and the lock's cost; returns the plain outputs as fp32."""
    mx.reset_peak_memory()
    model = build_mlx(section)
    weights = sum(value.nbytes for _, value in tree_flatten(model.parameters()))
    video, audio = mlx_inputs(model.config, arrays)
    outputs, seconds = timed(evaluated(model, video, audio), runs)
    report(size=size, what="mlx bf16", seconds=seconds, peak=mx.get_peak_memory(), weights=weights)
    _, seconds = timed(evaluated(mx.compile(functools.partial(model, video, audio))), runs)
    report(size=size, what="mlx bf16, whole forward compiled", seconds=seconds, peak=mx.get_peak_memory())
    adapted = adapted_copy(model)
    locked, seconds = timed(evaluated(model.locked, adapted, video, audio, audio), runs)
    same = bool(mx.array_equal(locked[0], outputs[0])) and bool(mx.array_equal(locked[1], outputs[1]))
    report(size=size, what="mlx bf16, exact video lock", seconds=seconds, video_and_base_audio_identical=same)
    return [np.asarray(x.astype(mx.float32)) for x in outputs]


@click.command()
@click.option("--width", default=704)
@click.option("--height", default=480)
@click.option("--frames", default=97)
@click.option("--frame-rate", default=24.0)
@click.option("--text-tokens", default=1024, help="Text context; 1024 in every real run.")
@click.option("--layers", type=int, help="Fewer blocks than the config says, to try the script out.")
@click.option("--runs", default=5, help="Timed forwards after one that is not counted.")
@click.option("--fp32/--no-fp32", default=True, help="The official fp32 run, the measure of both bf16 runs.")
@click.option(
    "--config", type=click.Path(exists=True, path_type=Path), default=Path("tests/data/ltx23_config.json"),
    help="The checkpoint's config.",
)  # fmt: skip
def main(
    width: int, height: int, frames: int, frame_rate: float, text_tokens: int, layers: int | None, runs: int,
    fp32: bool, config: Path,
) -> None:  # fmt: skip
    """Measures speed, memory and fidelity of the transformer at full size."""
    settle()
    section = json.loads(config.read_text())["transformer"] | ({"num_layers": layers} if layers else {})
    geometry = Geometry(width, height, frames, frame_rate, GRID)
    size = f"{width}x{height}x{frames}"
    report(
        size=size, gpu=torch.cuda.get_device_name(), torch=torch.__version__, mlx=version("mlx"),
        mlx_ltxw=mlx_ltxw.__version__, mlx_device=str(mx.default_device()), python=platform.python_version(),
        video_tokens=geometry.video_tokens, audio_tokens=geometry.audio_tokens,
    )  # fmt: skip
    arrays = inputs(TransformerConfig.read(section), geometry, text_tokens)
    model = build_official(section, torch.bfloat16)
    half, seconds = run_official(model, arrays, torch.bfloat16, runs)
    report(size=size, what="official bf16, eager", seconds=seconds, peak=torch.cuda.max_memory_allocated())
    del model
    gc.collect()
    torch.cuda.empty_cache()
    ours = measure_mlx(section, arrays, size, runs)
    gc.collect()
    mx.clear_cache()
    if fp32:
        wide, seconds = run_official(build_official(section, torch.float32), arrays, torch.float32, 1)
        for index, name in enumerate(("video", "audio")):
            theirs, mine = relative_error(half[index], wide[index]), relative_error(ours[index], wide[index])
            report(size=size, stream=name, official_bf16_error=theirs, mlx_bf16_error=mine, ratio=mine / theirs)


if __name__ == "__main__":
    main()
