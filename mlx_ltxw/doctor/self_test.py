"""A run of the built-in model against what it makes on a machine that is right."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_ltxw.doctor.diagnosis import Diagnosis
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text
from mlx_ltxw.gpu_errors import explained
from mlx_ltxw.pipeline.events import Decoded, Step
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir

EXPECTED = Path(__file__).parent / "expected.json"
REQUEST = Request('a woman in dim light, (woman, whispering): "close your eyes"', seeds=(10,), frames=17, steps=2)
TOLERANCES = {"float32": 5e-3, "bfloat16": 0.1}
"""Largest relative error of each figure. Backends add up in other orders; a wrong kernel is off by far more."""
_POINTS = 64


def measured(dtype: str) -> dict[str, list[float]]:
    """Some values of each thing a run makes: latents, sound, picture.

    Args:
        dtype: Of the transformer, as `Request` has it.

    Raises:
        UserError: the model is damaged, or the GPU fails.
    """
    figures: dict[str, list[float]] = {}
    job = plan(Request(**{**vars(REQUEST), "dtype": dtype}), ModelDir.open(BUILTIN_MODEL))
    for event in run(job):
        if isinstance(event, Step) and event.index == event.total:
            assert event.latents.video is not None
            figures["video latents"] = _some(np.asarray(event.latents.video))
            figures["audio latents"] = _some(np.asarray(event.latents.audio))
        elif isinstance(event, Decoded):
            pieces = np.array_split(event.waveform.astype(np.float64), _POINTS)
            figures["sound"] = [float(np.sqrt((piece**2).mean())) for piece in pieces]
            assert event.video is not None
            frames = np.concatenate(list(event.video)).astype(np.float64)
            figures["picture"] = _some(frames.mean(axis=(2, 3)))
    return figures


def self_test() -> Diagnosis:
    """Files as they were shipped, and the figures of a run in float32 and, on a GPU, in bfloat16."""
    began = time.perf_counter()
    expected = json.loads(read_text(EXPECTED))
    dtypes = ["float32"] if mx.default_device() == mx.Device(mx.cpu) else list(TOLERANCES)
    errors: dict[str, float] = {}
    try:
        ModelDir.open(BUILTIN_MODEL).verify()
        for dtype in dtypes:
            for name, values in measured(dtype).items():
                errors[f"{name}, {dtype}"] = _error(values, expected[name])
    except (UserError, RuntimeError, MemoryError) as error:
        told = error if isinstance(error, UserError) else explained(error)
        if told is None:
            raise
        return Diagnosis.of_error("self-test", told)
    return judged(errors, time.perf_counter() - began)


def judged(errors: dict[str, float], seconds: float) -> Diagnosis:
    """The verdict on some errors, by `NAME, DTYPE`."""
    facts: dict[str, Any] = {"errors": errors, "seconds": round(seconds, 2)}
    wrong = [name for name, error in errors.items() if not error <= TOLERANCES[name.rpartition(", ")[2]]]
    if wrong:
        listed = ", ".join(f"{name} by {errors[name]:.1e}" for name in wrong)
        return Diagnosis(
            "self-test", "fault", f"the built-in model makes something else here: {listed}",
            "Install MLX and mlx-ltxw again (`pip install --force-reinstall mlx mlx-ltxw`), and restart the machine; "
            "if it is so again, this device computes wrongly: report it with `mlx-ltxw doctor --json`.", facts,
        )  # fmt: skip
    worst = max(errors.values())
    return Diagnosis("self-test", "good", f"the built-in model makes what it should (within {worst:.1e}), in "
                     f"{seconds:.1f} s", facts=facts)  # fmt: skip


def _some(values: np.ndarray) -> list[float]:
    flat = values.reshape(-1)
    return [float(value) for value in flat[np.linspace(0, len(flat) - 1, _POINTS).astype(int)]]


def _error(values: list[float], wanted: list[float]) -> float:
    """Relative, of the whole; NaN stays NaN."""
    got, right = np.array(values), np.array(wanted)
    return float(np.linalg.norm(got - right) / np.linalg.norm(right)) if got.shape == right.shape else float("inf")
