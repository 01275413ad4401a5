"""A run's forwards are handed to a GPU part by part, with a window of them in flight."""

import mlx.core as mx

from mlx_ltxw.machine import Machine
from mlx_ltxw.models.submissions import Submissions
from mlx_ltxw.models.transformer.walk import WINDOW
from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run


def latents(model, request):
    return next(event for event in run(plan(request, model)) if isinstance(event, Step)).latents


def test_generation_submits_every_part_of_every_pass(distilled, monkeypatch):
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
    parts = added.count((1, WINDOW))
    assert parts > 4 * blocks  # several of each block
    assert parts % blocks == 0
    assert len(submitted) == sum(every > 0 for every, _ in added)  # those of the text encoder's layers too
    assert mx.array_equal(got.video, want.video)
    assert mx.array_equal(got.audio, want.audio)
