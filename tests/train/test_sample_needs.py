"""Listening samples hold what the plan says: the base as training has it, and no part of it twice."""

import dataclasses
import gc

import mlx.core as mx
import pytest

from mlx_ltxw.machine import Machine, limits
from mlx_ltxw.pipeline.budget import MARGIN
from mlx_ltxw.train import budget, loop
from mlx_ltxw.train.budget import TRAINING, TrainingStep
from mlx_ltxw.train.sample_needs import SAMPLES
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.streaming import RESIDENT
from scripts.stage_peaks import watched
from tests.train.driver import job

GB, SLACK = 10**9, 1_500_000


@pytest.mark.parametrize("streamed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_samples_take_what_was_predicted(tmp_path, streamed):
    """Whole blocks are the same prediction with larger weights."""
    task = job(BUILTIN_MODEL, tmp_path / "run", ["preview_every=1", "rank=16"], count=1)
    step, machine = TrainingStep(task.model, task.config, False), Machine("cpu", GB, GB)
    made = budget._planned(step, machine, 0)
    if streamed:
        training = next(need for need in made.needs if need.name.startswith(TRAINING))
        made = budget._planned(step, machine.within(int((training.peak - 4_000_000) / MARGIN)), 0)
    assert (made.residency is RESIDENT) != streamed
    gc.collect()
    before = mx.get_active_memory()
    with limits(machine) as parts:
        trainer = loop.Trainer(dataclasses.replace(task, residency=made.residency), parts)
        trainer.step(False)
        gc.collect()
        with watched() as found:
            list(trainer.samples())
    said = {need.name.removeprefix(f"{SAMPLES} ").split(" ")[0]: need for need in made.needs if SAMPLES in need.name}
    assert set(found) == set(said) == {"denoising", "sound"}
    for part, peak in found.items():
        assert 0.9 * (peak - before) - SLACK <= said[part].arrays <= 1.1 * (peak - before) + SLACK, part
