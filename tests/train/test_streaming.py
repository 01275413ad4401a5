"""Training with blocks that are read from disk: the same adapter to the last bit; one sentence when the disk fails."""

import dataclasses
import os

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.adapter.streamed import blocks_on_demand
from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.train import checkpoint, loop
from mlx_ltxw.train.base import load_base
from mlx_ltxw.train.events import Progress
from mlx_ltxw.weights import reading
from mlx_ltxw.weights.streaming import RESIDENT, Residency
from tests.convert.made import converted
from tests.train.driver import job

ALL, SOME = Residency(0, audio_stays=True), Residency(1, audio_stays=True)


@pytest.fixture(scope="module")
def packed():
    return converted("8", 32).path


def trained(task, residency, count=3):
    """What the adapter is after some steps, and the losses on the way."""
    trainer = loop.Trainer(dataclasses.replace(task, residency=residency))
    losses = [trainer.step(False)[0].audio_loss for _ in range(count)]
    return np.array(trainer.state.parameters), losses, trainer


@pytest.mark.parametrize(
    ("kind", "settings"), [("tiny_model", []), ("packed", ["gradient_checkpointing=true", "audio_draws=2"])]
)
def test_the_adapter_is_the_same_to_the_last_bit(kind, settings, tmp_path, request):
    task = job(request.getfixturevalue(kind), tmp_path / "run", ["steps=5", "learning_rate=1e-2", *settings])
    whole, losses, _ = trained(task, RESIDENT)
    assert np.abs(whole).max() > 0
    for residency in (ALL, SOME):
        streamed, again, trainer = trained(task, residency)
        np.testing.assert_array_equal(streamed, whole)
        assert again == losses
        assert blocks_on_demand(trainer.base).layers  # it did stream
        assert trainer.base.transformer_blocks is not None


def test_only_the_pictures_side_is_read(made_model):
    base = load_base(made_model, False, ALL)
    blocks = base.transformer.transformer_blocks
    names = set(blocks.streamed[0])
    assert {"attn1.to_q.weight", "ff.net.2.weight", "audio_to_video_attn.to_k.weight", "scale_shift_table"} <= names
    assert not [name for name in names if name.startswith(("audio_attn", "audio_ff", "video_to_audio_attn"))]
    before = blocks.traffic.bytes_read
    for index in range(len(blocks)):
        mx.eval(blocks[index].parameters())
    once = sum(tensor.nbytes for layer in blocks.streamed for tensor in layer.values())
    assert once <= blocks.traffic.bytes_read - before <= 2 * once  # the next forward's first is on its way


def test_samples_are_the_same(tiny_model, tmp_path):
    """Listening samples go through the streamed base too."""
    made = []
    for name, residency in (("whole", RESIDENT), ("streamed", ALL)):
        settings = ["steps=2", "preview_every=0", "preview_steps=1", "learning_rate=1e-2"]
        task = job(tiny_model, tmp_path / name, settings)
        list(loop.train(dataclasses.replace(task, residency=residency)))
        files = sorted((tmp_path / name / "samples").rglob("*.wav"))
        made.append({file.parent.name: read_audio(file, 48000) for file in files})  # they name their adapter's path
    assert [*made[0]] == [*made[1]] == ["step-000000", "step-000002"]
    assert all(np.array_equal(made[0][step], made[1][step]) for step in made[0])
    assert not np.array_equal(made[0]["step-000000"], made[0]["step-000002"])


def test_a_disk_that_fails_is_one_sentence_and_the_run_goes_on_to_the_same_bits(tiny_model, tmp_path, monkeypatch):
    """What was done since the last checkpoint is saved before the run ends."""
    settings = ["steps=4", "checkpoint_every=4", "preview_every=0", "preview_steps=1", "learning_rate=1e-2"]
    whole = job(tiny_model, tmp_path / "whole", settings)
    list(loop.train(whole))
    task = dataclasses.replace(job(tiny_model, tmp_path / "cut", settings), residency=ALL)
    real, armed = os.preadv, []

    def preadv(handle, buffers, offset):
        if armed:
            raise OSError(5, "Input/output error")
        return real(handle, buffers, offset)

    monkeypatch.setattr(reading.os, "preadv", preadv)

    def go():
        for event in loop.train(task):
            if isinstance(event, Progress) and event.step == 2:
                armed.append(True)

    with pytest.raises(UserError, match="can no longer be read") as told:
        go()
    assert told.value.hint.endswith("Step 2 is saved, and resume=True goes on from there.")
    assert checkpoint.saved_steps(task.run) == [2]
    armed.clear()
    list(loop.train(task))
    adapters = [(tmp_path / name / "adapter.safetensors").read_bytes() for name in ("whole", "cut")]
    assert adapters[0] == adapters[1]
