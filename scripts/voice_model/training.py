"""What the trainings share: captured steps, learning rates, clipping, checkpoints, the clock and the speech set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare(seed: int) -> None:
    """One seed for everything; TF32 matrix products; cuDNN picks its fastest kernels."""
    torch.manual_seed(seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


class Captured:
    """A training step as one CUDA graph: `step()` must use static tensors only. On a CPU it is simply called."""

    def __init__(self, step: Callable[[], dict[str, Tensor]], warmup: int = 3) -> None:
        self.step, self.graph, self.results, self.calls = step, None, {}, 0
        if DEVICE.type != "cuda":
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warmup):
                step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.results = step()

    def __call__(self) -> dict[str, Tensor]:
        if self.graph is None:
            self.results = self.step()
        else:
            self.graph.replay()
            self.calls += 1
            if self.calls % 8 == 0:  # else the host runs ahead and the clock shows nothing
                torch.cuda.current_stream().synchronize()
        return self.results


def adamw(parameters: Iterable[Tensor], betas: tuple[float, float] = (0.9, 0.999), decay: float = 0.01) -> Any:
    """AdamW whose learning rate is a tensor on a GPU, so that a captured step sees changes."""
    if DEVICE.type == "cuda":
        lr = torch.zeros((), device=DEVICE)
        return torch.optim.AdamW(list(parameters), lr, betas, weight_decay=decay, fused=True, capturable=True)
    return torch.optim.AdamW(list(parameters), 0.0, betas, weight_decay=decay)


def set_rate(optimizer: Any, value: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value


def update(optimizer: Any, loss: Tensor, limit: float) -> Tensor:
    """Backward, clip to `limit`, one step. Returns the gradient's norm. Gradients are let go first, so that a capture
    owns its own."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], limit)
    optimizer.step()
    return norm


def draw(weight: Tensor, count: int) -> Tensor:
    """`count` indices with replacement, in proportion to `weight`; no host synchronisation."""
    total = weight.cumsum(0)
    return torch.searchsorted(total, torch.rand(count, device=weight.device) * total[-1]).clamp_max(len(weight) - 1)


def cosine(progress: float, warmup: float = 0.02, floor: float = 0.0) -> float:
    if progress < warmup:
        return progress / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


class Clock:
    """Progress by wall-clock: a stage is given seconds, not steps, since the machine is lent by the second. A pause
    (a stopped process, a compilation) counts for one second at most."""

    def __init__(self, seconds: float, spent: float = 0.0) -> None:
        self.seconds, self.spent, self.last = seconds, spent, time.monotonic()

    @property
    def progress(self) -> float:
        now = time.monotonic()
        self.spent, self.last = self.spent + min(now - self.last, 1.0), now
        return min(1.0, self.spent / self.seconds)


def save(path: Path, **state: Any) -> None:
    """Written beside and moved into place, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location=DEVICE, weights_only=True)


class Speech:
    """`speech.npz` on the device. Waves (N, 64000) at 16 kHz in [-1, 1]."""

    def __init__(self, path: Path, device: torch.device = DEVICE) -> None:
        file = np.load(path)
        self.voice, self.sentence, self.register = (file[k] for k in ("voice", "sentence", "register"))
        self.take, self.natural = file["take"], file["natural"]
        self.flat = torch.from_numpy(file["flat"]).to(device).float() / 32768
        self.moving = torch.from_numpy(file["moving"]).to(device).float() / 32768
        self.high, self.high_index = file["high"], file["high_index"]
        frames = self.moving.reshape(len(self.moving), -1, 160).abs().amax(2)
        loud = (frames > 0.02 * frames.amax(1, keepdim=True)).cpu().numpy()
        self.end = np.array([int(np.flatnonzero(row)[-1]) + 1 for row in loud])  # in frames of 10 ms

    def where(self, register: str | None = None, take: int = 0, natural: bool = False) -> np.ndarray:
        from scripts.voice_model.corpus import REGISTERS

        chosen = (self.take == take) & (self.natural == natural)
        if register is not None:
            chosen &= self.register == REGISTERS.index(register)
        return np.flatnonzero(chosen)
