"""The model that ships with the package against the official classes with its very weights."""

import itertools

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
from mlx_ltxw.adapter.formats import read
from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.latents import Latents
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
from tests.numbers import relative_error
from tests.pipeline.test_end_to_end import compare
from tests.reference import pipeline as reference
from tests.reference.built_in import gemma, official_model

PLAIN = 'a woman in dim light, (woman): "close your eyes"'
WHISPER = 'a man with grey hair by a window, (man, whispering quietly): "the cat is hiding behind the curtain"'


@pytest.fixture(scope="module")
def model():
    return ModelDir.open(BUILTIN_MODEL)


def test_a_whole_run(model):
    """Prompt, 8 steps, picture and sound of a clip as `generate` makes it: DESIGN's bounds, 1e-4 over a run."""
    job = reference.Job(PLAIN, width=128, height=128, frames=33, steps=8)
    compare(model, official_model(), gemma(), job, levels=0.9)


def test_the_adapter_without_the_lock(model):
    """Fused by hand into the official weights, `weight + B A`, in fp32."""
    official, job = official_model(), reference.Job(WHISPER, width=128, height=128, frames=33, steps=4)
    adapter = read(BUILTIN_ADAPTERS["whisper"])
    changed = {}
    for path, delta in adapter.deltas.items():
        name = f"model.diffusion_model.{path}.weight"
        b, a = (np.array(factor.astype(mx.float32), np.float64) for factor in (delta.b, delta.a))
        changed[name] = official.state[name] + (delta.scale * b @ a).astype(np.float32)
    adapted = type(official)(official.config, official.state | changed)
    start = reference.noise(official, job, seed=7)
    expected = reference.run(adapted, gemma(), job, start, decode=False)
    base = reference.run(official, gemma(), job, start, decode=False)

    def noise(geometry, video_channels, audio_channels, seed, stage):
        return Latents(mx.array(start[0]), mx.array(start[1]))

    request = Request(WHISPER, frames=33, steps=4, adapters=("whisper",), lock_video=False)
    steps = [
        event for event in itertools.islice(run(plan(request, model), noise_source=noise), 8) if isinstance(event, Step)
    ]
    assert len(steps) == 4
    video, audio = expected.latents[-1]
    assert relative_error(steps[-1].latents.audio, audio) <= 1e-4
    assert relative_error(steps[-1].latents.video, video) <= 1e-4
    assert relative_error(base.latents[-1][1], audio) > 0.3  # it is another voice
