"""A run's forwards are handed to a GPU block by block, with a window of them in flight."""

import mlx.core as mx

from mlx_ltxw.models.transformer.walk import Submissions
from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.weights.memory import Machine


def latents(model, request):
    return next(event for event in run(plan(request, model)) if isinstance(event, Step)).latents


def test_generation_submits_every_block_of_every_pass(distilled, monkeypatch):
    """One pass a step; the bits are those of a run that submits nothing."""
    request = Request('a woman, (woman): "hush"', width=64, height=64, frames=9)
    want = latents(distilled, request)
    added, submitted = [], []
    add = Submissions.add
    monkeypatch.setattr(Machine, "in_pieces", True)
    monkeypatch.setattr(
        Submissions, "add", lambda self, piece: (added.append((self.every, self.window)), add(self, piece))
    )
    submit = mx.async_eval
    monkeypatch.setattr(mx, "async_eval", lambda *arrays: (submitted.append(arrays), submit(*arrays)))
    got = latents(distilled, request)
    blocks = len(distilled.load("transformer").transformer_blocks)
    assert added == [(1, 1)] * blocks
    assert len(submitted) == blocks
    assert mx.array_equal(got.video, want.video)
    assert mx.array_equal(got.audio, want.audio)
