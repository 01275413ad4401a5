"""The oracle of the end-to-end tests, held against values worked out by hand."""

import numpy as np
import pytest
import torch

from tests.reference.official import Official
from tests.reference.pipeline import (
    DEV_AUDIO,
    DEV_VIDEO,
    PLAIN,
    Job,
    denoise,
    encode,
    latent_tools,
    load_text_encoder,
    modality,
    noise,
    run,
)

from ltx_core.guidance.perturbations import BatchedPerturbationConfig
from ltx_core.model.transformer.model import X0Model


@pytest.fixture(scope="module")
def official(made_checkpoint):
    return Official.open(made_checkpoint)


@pytest.fixture(scope="module")
def gemma(made_gemma):
    return load_text_encoder(made_gemma)


def test_schedule():
    sigmas = Job("x", steps=30).sigmas().numpy()
    assert len(sigmas) == 31
    np.testing.assert_allclose(sigmas[:3], [1.0, 0.994957, 0.989603], atol=1e-6)
    np.testing.assert_allclose(sigmas[-4:], [0.387541, 0.26612, 0.1, 0.0], atol=1e-6)


def test_shapes_and_positions(official):
    video, audio = latent_tools(official, Job("x", width=96, height=64, frames=17, frame_rate=24.0))
    state = video.create_initial_state("cpu", torch.float32)
    assert state.latent.shape == (1, 3 * 2 * 3, 8)
    middle = state.positions.mean(dim=-1)[0]  # (3, T): seconds, rows, columns
    assert middle.dtype == torch.float32
    np.testing.assert_allclose(middle[0, [0, 6, 12]], [0.5 / 24, 5 / 24, 13 / 24], rtol=1e-6)
    np.testing.assert_allclose(middle[1:, 5], [48, 80])  # the last token of the first frame: row 1, column 2
    state = audio.create_initial_state("cpu", torch.float32)
    assert state.latent.shape == (1, 18, 32)  # round(17 / 24 * 25) = round(17.708)
    np.testing.assert_allclose(state.positions.mean(dim=-1)[0, 0, :4], [0.005, 0.03, 0.07, 0.11], atol=1e-6)


def test_one_step_is_euler_on_the_velocity(official, gemma):
    """From sigma 1 to 0.99375 without guidance: x + velocity * (0.99375 - 1)."""
    job = Job("a man speaks", width=64, height=32, frames=9)
    start = noise(official, job, seed=1)
    result = run(official, gemma, job, start)
    assert len(result.latents) == 8
    contexts = encode(official, gemma, job.prompt)
    states = [tools.create_initial_state("cpu", torch.float32) for tools in latent_tools(official, job)]
    inputs = []
    for state, tokens, context in zip(states, start, contexts, strict=True):
        state.latent.copy_(torch.from_numpy(tokens))
        inputs.append(modality(state, torch.tensor(1.0), context, 1))
    with torch.no_grad():
        velocities = official.transformer(*inputs, BatchedPerturbationConfig.empty(1))
    for latent, tokens, velocity in zip(result.latents[0], start, velocities, strict=True):
        np.testing.assert_allclose(latent, tokens - 0.00625 * velocity.numpy(), atol=1e-5)
    assert result.picture.shape == (9, 32, 64, 3)
    assert result.mel.shape == (1, 4 * 9 - 3, 64, 2)
    assert result.waveform.shape == (3 * 160 * 33, 2)
    assert 0.02 < np.abs(result.waveform).max() < 1
    assert np.isfinite(result.picture).all()


def test_guidance_of_one_batch_is_that_of_single_passes(official, gemma):
    """The formula in words: each difference times its scale, then the spread drawn 70 % of the way back."""
    job = Job("a man speaks", "noise", width=64, height=32, video=DEV_VIDEO, audio=DEV_AUDIO, steps=6)
    states = [tools.create_initial_state("cpu", torch.float32) for tools in latent_tools(official, job)]
    for state, tokens in zip(states, noise(official, job, seed=2), strict=True):
        state.latent.copy_(torch.from_numpy(tokens))
    contexts = [encode(official, gemma, prompt) for prompt in (job.prompt, job.negative_prompt)]
    model, sigma = X0Model(official.transformer), torch.tensor(0.7)

    def alone(**guidance):
        from dataclasses import replace

        return replace(job, video=replace(PLAIN, **guidance), audio=replace(PLAIN, **guidance))

    with torch.no_grad():
        guided = denoise(model, states, sigma, contexts, job)
        cond = denoise(model, states, sigma, contexts, alone())
        # cfg 0 returns the unconditional prediction itself, and so do stg -1 and modality 0.
        uncond = denoise(model, states, sigma, contexts, alone(cfg_scale=0.0))
        perturbed = denoise(model, states, sigma, contexts, alone(stg_scale=-1.0, stg_blocks=[1]))
        isolated = denoise(model, states, sigma, contexts, alone(modality_scale=0.0))
    for side, cfg in ((0, 3.0), (1, 7.0)):
        c, u, p, m = (prediction[side].double() for prediction in (cond, uncond, perturbed, isolated))
        for other in (u, p, m):
            assert (c - other).abs().mean() > 1e-4  # every pass sees something else
        expected = c + (cfg - 1) * (c - u) + (c - p) + 2 * (c - m)
        expected *= 0.7 * c.std() / expected.std() + 0.3
        torch.testing.assert_close(guided[side].double(), expected, rtol=1e-4, atol=1e-4)


def test_audio_alone_neither_needs_nor_sees_a_video(official, gemma):
    job = Job("a man speaks", frames=17, video=None, audio=DEV_AUDIO, steps=2)
    start = noise(official, job, seed=3)
    result = run(official, gemma, job, start)
    assert result.picture is None
    assert result.latents[-1][0] is None
    assert result.latents[-1][1].shape == start[1].shape


def test_longer_prompts_and_their_padding_count(official, gemma):
    """Contexts are 1024 tokens for every prompt, and differ from prompt to prompt."""
    contexts = [encode(official, gemma, prompt) for prompt in ("rain", "a man speaks softly in the rain " * 20)]
    for short, long in zip(*contexts, strict=True):
        assert short.shape[1] == long.shape[1] == 1024
        assert (short - long).abs().mean() > 0.01
