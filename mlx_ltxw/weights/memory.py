"""Whether a model fits this machine, told before anything is loaded.

Only weights are counted, exactly, from the files' headers; activations come on top and depend on the clip's size.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.components import TEXT_ENCODER
from mlx_ltxw.weights.dtype import default_dtype, stays_float32
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.names import readable

_ORDER = (TEXT_ENCODER, "text_projection", "connectors", "transformer", "audio_vae", "vocoder", "video_vae")
_FLOATS = {"BF16", "F16", "F32"}
_COMFORTABLE = 0.85  # of the budget; the rest is for activations and the system


@dataclass(frozen=True)
class Machine:
    """The memory that MLX's default device has.

    Attributes:
        backend: `metal`, `cuda` or `cpu`.
        total: Bytes of memory; unified on a Mac, the card's on CUDA.
        budget: Bytes that this process should use: Metal's recommended working set, what is free on a CUDA card, or
            the total.
    """

    backend: str
    total: int
    budget: int

    @property
    def short_jobs(self) -> bool:
        """Whether the VAEs and the vocoder evaluate stage by stage, so that the Mac's display watchdog keeps quiet."""
        return self.backend == "metal"

    @property
    def blocks_per_submission(self) -> int:
        """For `Walk.submit_every`: on a GPU each block is on its way while Python describes the next one."""
        return 0 if self.backend == "cpu" else 1

    @property
    def text_layers_per_eval(self) -> int:
        """For `TextEncoder.load`: short jobs there too; 0 for the whole encoder in one."""
        return 1 if self.short_jobs else 0

    @property
    def cache_limit(self) -> int:
        """For `mx.set_cache_limit`: the freed buffers that MLX keeps can otherwise grow past the model's own size.

        On CUDA the limit leaves room for all activations of a forward (6.5 GB at 704x480x97), which would otherwise be
        freed and allocated again in each.
        """
        if self.backend == "cuda":
            return self.total // 4
        return max(256 << 20, min(4 << 30, self.total // 16))


def this_machine() -> Machine:
    """Reads MLX's device information, and the system's where MLX tells nothing (CPU)."""
    if mx.default_device() == mx.Device(mx.cpu):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Machine("cpu", total, total)
    info = mx.device_info()
    total = int(info.get("memory_size") or info["total_memory"])
    backend = "metal" if mx.metal.is_available() else "cuda"
    budget = info.get("max_recommended_working_set_size") or info.get("free_memory") or total
    return Machine(backend, total, int(budget))


def weights_in_memory(model: ModelDir, dtype: mx.Dtype | None = None, audio_only: bool = False) -> dict[str, int]:
    """Bytes of each network's weights, in the order in which `generate` loads them; each goes before the next comes.

    Args:
        model: The model directory; its headers are read.
        dtype: Of the networks, as for `ModelDir.load`.
        audio_only: Whether the video side stays on disk.
    """
    itemsize = (dtype or default_dtype()).size
    names = [name for name in _ORDER if not (audio_only and name == "video_vae")]
    return {name: _bytes(model, name, itemsize, audio_only and name == "transformer") for name in names}


def _bytes(model: ModelDir, component: str, itemsize: int, audio_only: bool) -> int:
    total = 0
    for tensor in model.tensors(component, audio_only):
        if tensor.dtype in _FLOATS:
            total += tensor.elements * (4 if stays_float32(component, tensor.name) else itemsize)
        else:
            total += tensor.nbytes
    return total


def check_fit(weights: Mapping[str, int], machine: Machine) -> list[str]:
    """Warnings for networks whose weights nearly fill the machine.

    Args:
        weights: From `weights_in_memory`.
        machine: From `this_machine`.

    Raises:
        UserError: a network's weights alone are larger than the machine's memory.
    """
    warnings = []
    for name, size in weights.items():
        if size > machine.total:
            raise UserError(
                f"The weights of the {name} take {readable(size)}, and this machine has {readable(machine.total)}.",
                "Convert the checkpoint with -q 4, or make sound alone with --audio-only.",
            )
        if size > _COMFORTABLE * machine.budget:
            warnings.append(
                f"The weights of the {name} take {readable(size)} of the {readable(machine.budget)} that this process "
                "should use; it may be slow or fail."
            )
    return warnings
