"""The memory plan of a model whose blocks or texts are most of what a run takes, with adapters and without."""

import dataclasses
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_ltxw.models.transformer.merged import MERGED
from mlx_ltxw.pipeline import networks
from mlx_ltxw.pipeline.adapter_needs import copies, made_factors, read_adapters
from mlx_ltxw.pipeline.budget import best_budget
from mlx_ltxw.pipeline.guidance import NO_GUIDANCE
from mlx_ltxw.pipeline.plan import _work, plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
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


@pytest.mark.parametrize(("width", "layers"), [(128, 4), (512, 2)])
def test_texts_of_guided_passes_take_what_was_predicted(folder, monkeypatch, width, layers):
    """Of a short clip, where they are most of it: keys and values of both are there while all passes read a block, and
    connectors hold several times a wide text."""
    monkeypatch.setenv("MLX_LTXW_CACHE", "0")
    model = wide_model(folder, width, layers)
    job = plan(dataclasses.replace(REQUEST, width=64, height=64, frames=9), model)
    assert len(job.prompts) == 2
    parts = ("connectors", "denoising")
    said = {part: predicted(job)[part] for part in parts}
    check_plan(said, lambda: {part: peak for part, peak in measured(job).items() if part in parts})


def test_a_distilled_lora_beside_packed_weights_is_counted_once(folder):
    """From the start, when its numbers are checked: its file's bytes, with the texts too."""
    model = wide_model(folder, 512, 2, 4)
    lora = block_adapter(folder, model, seed=1)
    plain, distilled = (
        plan(dataclasses.replace(REQUEST, video_guidance=NO_GUIDANCE, audio_guidance=NO_GUIDANCE, **more), model)
        for more in ({}, {"distilled_lora": lora, "steps": None})
    )
    for less, more in zip(plain.budget.needs, distilled.budget.needs, strict=True):
        assert more.arrays - less.arrays == Path(lora).stat().st_size, less.name


def test_adapters_of_several_voices_have_no_second_weights(folder):
    """They lie beside the weights, as does one whose strength changes in time: factors side by side, each once."""
    model = wide_model(folder, 512, 2)
    adapter = block_adapter(folder, model, audio=True)
    lock = dataclasses.replace(REQUEST, adapters=(adapter,), lock_video=True)
    voices = dataclasses.replace(lock, takes=(f"adapter={adapter}", f"adapter={adapter}:0.5"))
    (fused, timed, apart) = (
        _work(plan(one, model)) for one in (lock, dataclasses.replace(lock, register_at="0-1=whispering"), voices)
    )
    assert sum(copies(fused)) > 0 == sum(copies(timed)) == sum(copies(apart))
    assert [made_factors(one) for one in (fused, timed)] == [0, 0]  # in float32, as they are stored
    assert made_factors(apart) == pytest.approx(Path(adapter).stat().st_size, rel=0.02)
    assert read_adapters(apart) == Path(adapter).stat().st_size
    narrow = dataclasses.replace(timed, dtype=mx.bfloat16)
    assert made_factors(narrow) == pytest.approx(made_factors(apart) / 2, rel=0.02)
    assert (
        0 < made_factors(dataclasses.replace(narrow, timed=False)) < made_factors(narrow)
    )  # those that read the video
    (first, _), (second, _) = (chosen.adapters[0] for chosen in apart.chosen if chosen.adapters)
    assert first is second


def test_between_two_clips_the_transformer_is_counted(monkeypatch):
    """Where it stays for the next one while a clip is decoded."""
    monkeypatch.setenv("MLX_LTXW_CACHE", "0")
    request = dataclasses.replace(REQUEST, width=64, height=64, seeds=(1, 2))
    one, two = (
        plan(dataclasses.replace(request, seeds=seeds), ModelDir.open(BUILTIN_MODEL)) for seeds in ((1,), (1, 2))
    )
    assert two.resident
    kept = max(need.weights for need in two.budget.needs if need.name.startswith("denoising"))
    ends = [[need for need in job.budget.needs if need.name in ("sound", "picture")] for job in (one, two)]
    assert [need.weights for need in ends[1]] == [need.weights + kept for need in ends[0]]
    assert [two.budget.part(part)[0] for part in ("vocoder", "video_vae")] == [need.weights for need in ends[0]]
    said = predicted(two)
    check_plan(said, lambda: {part: peak for part, peak in measured(two).items() if part in ("sound", "picture")})
