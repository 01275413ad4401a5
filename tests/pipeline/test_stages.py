"""Stages, what is given of a stream, and networks that stay: against the official states and by hand."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.pipeline.drift import drift
from mlx_ltxw.pipeline.events import Conditioned, Decoded, Step
from mlx_ltxw.pipeline.latents import Conditions, Given, Latents, noise
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run, steps, transformers
from mlx_ltxw.weights.model_dir import ModelDir
from tests.numbers import relative_error as error
from tests.pipeline.test_end_to_end import PROMPT, SHORT, gemma, official, request  # noqa: F401
from tests.reference import pipeline as reference

SMALL = Request(PROMPT, seeds=(7,), width=96, height=64, frames=17, steps=4)


def test_a_mask_for_each_token_as_the_official_states_have_it(official, gemma, dev):  # noqa: F811
    """The first latent frame is kept, one is noised by half, the rest is made; so is the middle of the sound."""
    job = reference.Job(
        PROMPT, SHORT, width=96, height=64, frames=17, steps=5, video=reference.DEV_VIDEO, audio=reference.DEV_AUDIO
    )
    start, given = reference.noise(official, job, seed=7), []
    random = np.random.default_rng(1)
    for tokens, kept, half in ((start[0], slice(0, 6), slice(6, 9)), (start[1], slice(4, 9), slice(9, 11))):
        mask = np.ones(tokens.shape[:2], np.float32)
        mask[:, kept], mask[:, half] = 0, 0.5
        given.append((random.standard_normal(tokens.shape).astype(np.float32), mask))
    expected = reference.run(official, gemma, job, start, decode=False, given=tuple(given))

    plan_ = plan(request(job), dev)
    networks = Networks(dev, plan_.dtype)
    conditions = Conditions(*(Given(mx.array(clean), mx.array(mask)) for clean, mask in given))
    made = steps(
        plan_, transformers(plan_, networks), networks.contexts(plan_.prompts), 7, (conditions,),
        lambda *_: Latents(mx.array(start[0]), mx.array(start[1])),
    )  # fmt: skip
    for step, (video, audio) in zip(made, expected.latents, strict=True):
        assert error(step.latents.video, video) <= 1e-4
        assert error(step.latents.audio, audio) <= 1e-4
    np.testing.assert_array_equal(step.latents.video[:, :6], given[0][0][:, :6])
    np.testing.assert_array_equal(step.latents.audio[:, 4:9], given[1][0][:, 4:9])


def test_a_second_stage_starts_from_the_first_with_noise_at_its_first_level(dev):
    """By hand: `x = latent + (noise - latent) * 0.5`, given to a stage of its own."""
    whole = plan(SMALL, dev)
    stage = whole.stages[0]
    second = dataclasses.replace(stage, sigmas=np.array([0.5, 0.25, 0.0], np.float32), start="previous")
    networks = Networks(dev, whole.dtype, keep=True)
    contexts = networks.contexts(whole.prompts)

    both = dataclasses.replace(whole, stages=(stage, second))
    made = list(steps(both, transformers(both, networks), contexts, 7))
    assert [step.index for step in made] == [1, 2, 3, 4, 5, 6]
    assert {step.total for step in made} == {6}
    assert made[4].sigma == 0.5

    first = made[3].latents
    fresh = noise(stage.geometry, first.video.shape[-1], first.audio.shape[-1], 7, stage=1)
    assert not mx.array_equal(fresh.audio, noise(stage.geometry, 32, 32, 7).audio)
    clean, drawn = (tuple(np.asarray(stream) for stream in latents[:2]) for latents in (first, fresh))
    noisy = Latents(*(mx.array(x + (n - x) * 0.5) for x, n in zip(clean, drawn, strict=True)))
    alone = dataclasses.replace(whole, stages=(dataclasses.replace(second, start="noise"),))
    *_, last = steps(alone, transformers(alone, networks), contexts, 7, noise_source=lambda *_: noisy)
    assert error(made[-1].latents.video, last.latents.video) < 1e-6
    assert error(made[-1].latents.audio, last.latents.audio) < 1e-6


def test_each_clip_is_decoded_when_it_is_done(dev):
    kinds = [
        (type(event).__name__, getattr(event, "seed", None))
        for event in run(plan(dataclasses.replace(SMALL, seeds=(1, 2), steps=1, audio_only=True), dev))
    ]
    assert kinds == [("Conditioned", None), ("Step", 1), ("Decoded", 1), ("Step", 2), ("Decoded", 2)]


@pytest.mark.parametrize("resident", [True, False])
def test_networks_that_stay_change_nothing(dev, monkeypatch, resident):
    """Three runs over the same networks, one with another prompt between, against one with its own."""
    monkeypatch.setenv("MLX_LTXW_CACHE", "0")
    loaded = []
    load = ModelDir.load
    monkeypatch.setattr(ModelDir, "load", lambda self, name, *a, **k: loaded.append(name) or load(self, name, *a, **k))
    sound = dataclasses.replace(SMALL, audio_only=True, steps=2)
    want = _waveform(run(plan(sound, dev)))
    other = dataclasses.replace(sound, prompt='a man, (man): "another line"')
    networks = Networks(dev, mx.float32, keep=resident)
    loaded.clear()
    waves = [_waveform(run(plan(job, dev), networks)) for job in (sound, other, sound)]
    assert np.array_equal(waves[0], want)
    assert np.array_equal(waves[2], want)
    assert not np.array_equal(waves[1], want)
    assert loaded.count("transformer") == loaded.count("vocoder") == (1 if resident else 3)
    assert loaded.count("text_projection") == 2  # contexts of a prompt are remembered


def test_a_transformer_in_memory_is_taken_for_what_it_can_make(dev, monkeypatch):
    """What trains lends its own, without the video side or with it; another kind is loaded."""
    loaded = []
    load = ModelDir.load
    monkeypatch.setattr(ModelDir, "load", lambda self, name, *a, **k: loaded.append(name) or load(self, name, *a, **k))
    own = dev.load_transformer(mx.float32, True)
    networks = Networks(dev, mx.float32, transformer=own)
    loaded.clear()
    lent = networks.transformer(True)
    assert loaded == []
    assert lent is not own
    assert lent.transformer_blocks[0].audio_attn1.to_q.weight is own.transformer_blocks[0].audio_attn1.to_q.weight
    assert networks.transformer(False).with_video
    assert loaded == ["transformer"]


def _waveform(events):
    (clip,) = (event for event in events if isinstance(event, Decoded))
    return clip.waveform


def test_drift_encodes_no_prompt_again(dev, monkeypatch):
    """Same latents on both sides but for the adapter: without one there is none."""
    job = plan(dataclasses.replace(SMALL, steps=2), dev)
    networks = Networks(dev, job.dtype)
    made = {}
    for event in run(job, networks):
        if isinstance(event, Step):
            made[event.seed] = event.latents
        if isinstance(event, Conditioned):
            monkeypatch.setattr("mlx_ltxw.pipeline.networks.encode_prompts", None)
        if isinstance(event, Decoded):
            list(event.video)
    (found,) = drift(job, made, networks)
    assert (found.seed, found.video, found.audio, found.psnr) == (7, 0, 0, float("inf"))
