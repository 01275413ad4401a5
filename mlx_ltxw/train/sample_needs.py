"""What making listening samples holds, while the base stays as training has it.

Their prompts are encoded before the base is loaded, their adapter is put into a block as the block comes, and of what
is made only the sound is decoded (`preview.py`).
"""

from __future__ import annotations

import dataclasses

from mlx_ltxw.models.transformer import Transformer
from mlx_ltxw.pipeline.adapters import reads_video
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.needs import Need, Subject, decoding_needs, walking
from mlx_ltxw.train.gradient.fresh import targets
from mlx_ltxw.train.step_needs import TrainingStep, state_bytes, trained_numbers
from mlx_ltxw.tree import linears, size_of
from mlx_ltxw.weights.dtype import default_dtype

SAMPLES = "samples'"
"""How the names of these parts begin."""


def sample_needs(step: TrainingStep, subject: Subject, size: Geometry, weights: int) -> list[Need]:
    """Of samples, part by part.

    Args:
        step: What a forward of training goes over.
        subject: A clip of the run's.
        size: Of it.
        weights: Bytes of the base as training has it in memory, and of all prompts.
    """
    clip = dataclasses.replace(
        subject,
        sounds=1,
        adapters=trained_numbers(step) * default_dtype().size,
        prompts=[""],
        makes_picture=False,
    )
    state = state_bytes(step)
    needs = [Need("denoising", 0, walking(clip, size) + 2 * _fused(step), 0), *decoding_needs(clip, size)]
    return [
        Need(f"{SAMPLES} {need.name}", weights + need.weights, state + need.activations, need.read) for need in needs
    ]


def kept_contexts(step: TrainingStep, subject: Subject) -> int:
    """Bytes of the samples' prompts as the transformer reads them, which a run keeps from before its base is loaded."""
    return (_prompts(step) + 1) * subject.contexts  # and of the negative one


_PROMPTS = 4
"""Of a run that does not say which, at most; see `preview.choose_prompts`."""


def _prompts(step: TrainingStep) -> int:
    return len(step.config.preview_prompts) or _PROMPTS


def _fused(step: TrainingStep) -> int:
    """Bytes of a block's weights with the adapter in them, of the block with most."""
    if step.model.quantized_layers("transformer"):
        return 0  # it stays beside them
    skeleton = Transformer(step.model.network_config("transformer"), with_video=not step.audio_only)
    here, blocks = linears(skeleton), dict[str, int]()
    for path in targets(skeleton, step.config):
        if not reads_video(path):
            rows, columns = size_of(here[path])
            prefix = ".".join(path.split(".")[:2])
            blocks[prefix] = blocks.get(prefix, 0) + rows * columns * default_dtype().size
    return max(blocks.values(), default=0)
