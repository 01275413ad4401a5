"""Whether a model fits this machine, told before anything is loaded.

Only weights are counted, exactly, from the files' headers; activations come on top and depend on the clip's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx

from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import Machine
from mlx_ltxw.printing import readable
from mlx_ltxw.weights.components import TEXT_ENCODER
from mlx_ltxw.weights.dtype import default_dtype, stays_float32
from mlx_ltxw.weights.model_dir import ModelDir

_ORDER = (TEXT_ENCODER, "text_projection", "connectors", "transformer", "audio_vae", "vocoder", "video_vae")
_FLOATS = {"BF16", "F16", "F32"}
_COMFORTABLE = 0.85  # of the budget; the rest is for activations and the system


def weights_in_memory(
    model: ModelDir, dtype: mx.Dtype | None = None, audio_only: bool = False, others: Sequence[str] = ()
) -> dict[str, int]:
    """Bytes of each network's weights, in the order in which `generate` loads them; each goes before the next comes.

    Args:
        model: The model directory; its headers are read.
        dtype: Of the networks, as for `ModelDir.load`.
        audio_only: Whether the video side stays on disk.
        others: More of the model's networks, such as an upsampler.
    """
    itemsize = (dtype or default_dtype()).size
    names = [name for name in (*_ORDER, *others) if not (audio_only and name == "video_vae")]
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
                "Convert the checkpoint with {field:quantize=4}, or make sound alone with {field:audio_only=True}.",
            )
        if size > _COMFORTABLE * machine.budget:
            warnings.append(
                f"The weights of the {name} take {readable(size)} of the {readable(machine.budget)} that this process "
                "should use; it may be slow or fail."
            )
    return warnings
