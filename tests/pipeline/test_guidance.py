"""Schedules and guidance against the official components, and by hand."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest
import torch

import tests.reference  # noqa: F401
from mlx_ltxw.pipeline.guidance import (
    DEFAULT_NEGATIVE_PROMPT,
    DEV_AUDIO,
    DEV_VIDEO,
    NO_GUIDANCE,
    Guidance,
    combine,
    passes,
)
from mlx_ltxw.pipeline.schedule import DISTILLED_SIGMAS, ltx2_sigmas
from tests.numbers import relative_error

from ltx_core.components.guiders import MultiModalGuider, MultiModalGuiderParams
from ltx_core.components.schedulers import LTX2Scheduler


@pytest.mark.parametrize("steps", [2, 6, 8, 30, 40])
def test_schedule_equals_official(steps):
    assert np.abs(ltx2_sigmas(steps) - LTX2Scheduler().execute(steps=steps).numpy()).max() < 1e-6


def test_schedule_of_a_latent_equals_official():
    want = LTX2Scheduler().execute(steps=15, latent=torch.zeros(1, 128, 16, 16, 24)).numpy()
    assert np.abs(ltx2_sigmas(15, tokens=16 * 16 * 24) - want).max() < 1e-6


def test_schedule_worked_values():
    sigmas = ltx2_sigmas(30)
    assert sigmas[:3] == pytest.approx([1.0, 0.994957, 0.989603], abs=1e-6)
    assert sigmas[-4:] == pytest.approx([0.387541, 0.26612, 0.1, 0.0], abs=1e-5)


def test_one_step_goes_all_the_way():
    assert ltx2_sigmas(1).tolist() == [1.0, 0.0]


def test_distilled_sigmas():
    """Diffusers leaves the last level, 0, to its scheduler."""
    from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES

    assert (*DISTILLED_SIGMA_VALUES, 0.0) == DISTILLED_SIGMAS


def test_scales_of_the_dev_model():
    """Source: `ltx_pipelines/utils/constants.py:LTX_2_3_PARAMS` (1.2.0)."""
    shared = {"stg": 1.0, "modality": 3.0, "rescale": 0.7, "stg_blocks": (28,)}
    assert dataclasses.asdict(DEV_VIDEO) == {"cfg": 3.0} | shared
    assert dataclasses.asdict(DEV_AUDIO) == {"cfg": 7.0} | shared


def test_every_negative_term():
    """Diffusers has the official prompt as it was; 1.2.0 puts five terms in front of it."""
    from diffusers.pipelines.ltx2.utils import DEFAULT_NEGATIVE_PROMPT as OLDER

    new = ["has_subtitles", "has_blurbox", "transition from black", "transition to black", "speech_ending_short"]
    assert ", ".join([*new, OLDER]) == DEFAULT_NEGATIVE_PROMPT
    assert DEFAULT_NEGATIVE_PROMPT.count(",") == 62


@pytest.mark.parametrize(
    "guidance",
    [
        DEV_VIDEO,
        DEV_AUDIO,
        Guidance(cfg=4.0),
        Guidance(stg=1.5, rescale=1.0),
        Guidance(modality=2.0, rescale=0.3),
        NO_GUIDANCE,
    ],
)
def test_combination_equals_official(guidance):
    draw = np.random.default_rng(1)
    names = ("cond", "uncond", "ptb", "mod")
    clean = {name: draw.standard_normal((1, 7, 12)).astype(np.float32) for name in names}
    params = MultiModalGuiderParams(
        cfg_scale=guidance.cfg,
        stg_scale=guidance.stg,
        rescale_scale=guidance.rescale,
        modality_scale=guidance.modality,
    )
    want = MultiModalGuider(params=params).calculate(*(torch.from_numpy(clean[name]) for name in names)).numpy()
    got = np.asarray(combine(guidance, {name: mx.array(value) for name, value in clean.items()}))
    assert relative_error(got, want) < 1e-6


def test_combination_by_hand():
    """cond 2, uncond 1, scale 3: 2 + 2 * 1 = 4; without rescale the spread is left as it is."""
    clean = {"cond": mx.full((1, 2, 1), 2.0), "uncond": mx.full((1, 2, 1), 1.0)}
    assert combine(Guidance(cfg=3.0), clean).tolist() == [[[4.0], [4.0]]]


def test_passes_of_the_dev_model():
    runs = passes(DEV_VIDEO, DEV_AUDIO, layers=48)
    assert [run.name for run in runs] == ["cond", "uncond", "ptb", "mod"]
    assert [run.negative for run in runs] == [False, True, False, False]
    assert runs[2].skips.video_self == runs[2].skips.audio_self == {28}
    assert runs[3].skips.cross


def test_passes_that_change_nothing_are_left_out():
    assert [run.name for run in passes(DEV_VIDEO, DEV_AUDIO, layers=4)] == ["cond", "uncond", "mod"]
    assert [run.name for run in passes(NO_GUIDANCE, NO_GUIDANCE, layers=48)] == ["cond"]


def test_audio_alone_has_no_other_modality():
    assert [run.name for run in passes(None, DEV_AUDIO, layers=48)] == ["cond", "uncond", "ptb"]


def test_each_modality_is_perturbed_by_its_own_guidance():
    runs = passes(dataclasses.replace(DEV_VIDEO, stg=0.0), DEV_AUDIO, layers=48)
    assert not runs[2].skips.video_self
    assert runs[2].skips.audio_self == {28}
