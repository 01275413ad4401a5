"""The memory plan of adapters in the weights, of a model whose blocks are most of what a run takes."""

import dataclasses

import pytest

from mlx_ltxw.models.transformer.merged import MERGED
from mlx_ltxw.pipeline import networks
from mlx_ltxw.pipeline.budget import best_budget
from mlx_ltxw.pipeline.plan import _work, plan
from mlx_ltxw.pipeline.request import Request
from scripts.stage_peaks import measured, predicted
from tests.memory import check_plan
from tests.wide import block_adapter, wide_model

REQUEST = Request("a woman", width=128, height=128, frames=17, steps=1, seeds=(1,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("wide")


@pytest.mark.parametrize(
    ("bits", "audio", "changes", "merged"),
    [
        (None, False, {"lock_video": False}, False),
        (None, False, {"lock_video": False}, True),
        (None, True, {"lock_video": True}, False),
        (4, True, {"lock_video": True, "fuse": True}, False),
        (4, False, {"lock_video": False, "fuse": True}, False),
    ],
    ids=["unlocked", "laid together", "locked", "packed, locked", "packed"],
)
def test_streamed_blocks_with_adapters_take_what_was_predicted(folder, monkeypatch, bits, audio, changes, merged):
    """Of all linears without the lock, which is as much as the blocks; of the whisper adapter's under it."""
    monkeypatch.setattr(networks, "MERGED", MERGED | {"cpu": merged})
    model = wide_model(folder, 512, 2, bits)
    request = dataclasses.replace(REQUEST, adapters=(block_adapter(folder, model, audio),), **changes)
    job = plan(request, model)
    job = dataclasses.replace(job, budget=best_budget(_work(job), job.machine.within(1), program=0), resident=False)
    assert job.budget.residency.layers == 0
    said = {"denoising": predicted(job)["denoising"]}
    check_plan(said, lambda: {"denoising": measured(job)["denoising"]})
