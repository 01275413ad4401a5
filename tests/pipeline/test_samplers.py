"""The res_2s sampler against the official loop, with the same noise and a denoiser that needs no network."""

import mlx.core as mx
import numpy as np
import pytest
import torch

import tests.reference  # noqa: F401
from mlx_ltxw.pipeline.latents import Given, Latents, fresh_noise
from mlx_ltxw.pipeline.samplers import res_2s
from mlx_ltxw.pipeline.schedule import SECOND_STAGE_SIGMAS, ltx2_sigmas
from tests.numbers import relative_error

from ltx_core.components.diffusion_steps import Res2sDiffusionStep
from ltx_core.types import LatentState
from ltx_pipelines.utils.samplers import _get_new_noise, res2s_audio_video_denoising_loop

VIDEO, AUDIO = (1, 12, 8), (1, 7, 8)
GIVEN = 3
"""Video tokens that are kept; one more is noised by half."""


def arrays(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def clean(x, other, sigma, number):
    """A prediction that depends on everything a network's does, and changes its mind with the level."""
    return number.tanh(x * (0.6 + 0.3 * sigma) + 0.4 * other.mean() * sigma) + 0.05 * x


class Ours:
    """With the first video tokens given."""

    def __init__(self, given):
        self.given = given

    def __call__(self, latents, sigma):
        video = mx.tanh(latents.video * (0.6 + 0.3 * sigma) + 0.4 * latents.audio.mean() * sigma) + 0.05 * latents.video
        audio = mx.tanh(latents.audio * (0.6 + 0.3 * sigma) + 0.4 * latents.video.mean() * sigma) + 0.05 * latents.audio
        return self.restore(Latents(video, audio), latents, sigma)

    def restore(self, latents, *_):
        share = self.given.mask[..., None]
        return latents._replace(video=latents.video * share + self.given.tokens * (1 - share))


def official(start, kept, mask, sigmas, noises):
    """The official loop; `noises` are taken in its order: for each half and step, video then audio."""
    clock, drawn = [], iter(noises)
    states = [
        LatentState(torch.from_numpy(x), torch.from_numpy(m), torch.zeros(1), torch.from_numpy(c))
        for x, m, c in zip(start, (mask[..., None], np.ones((1, AUDIO[1], 1), np.float32)), kept, strict=True)
    ]

    def denoise(video_state, audio_state, sigmas, step_index):
        sigma, v, a = float(sigmas[step_index]), video_state.latent, audio_state.latent
        clock.append(sigma)
        return clean(v, a, sigma, torch), clean(a, v, sigma, torch)

    video, audio = res2s_audio_video_denoising_loop(
        torch.from_numpy(sigmas), *states, Res2sDiffusionStep(), denoise,
        new_noise_fn=lambda *_: torch.from_numpy(next(drawn)).double(), model_dtype=torch.float32,
    )  # fmt: skip
    assert next(drawn, None) is None
    return (video.latent.numpy(), audio.latent.numpy()), clock


@pytest.mark.parametrize(
    "sigmas",
    [ltx2_sigmas(15, 1024), np.array(SECOND_STAGE_SIGMAS, np.float32), np.array([0.9, 0.5, 0.2], np.float32)],
    ids=["first stage", "second stage", "not to the end"],
)
def test_res_2s_is_the_official_loop(sigmas):
    """All its states: the loop is run for one, two, ... steps. Its refinement is its limit here."""
    start, kept = (arrays(VIDEO, 1), arrays(AUDIO, 2)), (arrays(VIDEO, 3), arrays(AUDIO, 4))
    mask = np.ones(VIDEO[:2], np.float32)
    mask[:, :GIVEN], mask[:, GIVEN] = 0, 0.5
    steps = len(sigmas) - 1
    noises = [(arrays(VIDEO, 10 + n), arrays(AUDIO, 50 + n)) for n in range(2 * steps)]
    levels = []

    class Counting(Ours):
        def __call__(self, latents, sigma):
            levels.append(sigma)
            return super().__call__(latents, sigma)

    predict = Counting(Given(mx.array(kept[0]), mx.array(mask)))
    begin = Latents(mx.array(start[0]), mx.array(start[1]))
    got = list(res_2s(predict, begin, sigmas, lambda _, n: Latents(*map(mx.array, noises[n]))))
    assert len(got) == steps
    for count in range(1, steps + 1):
        part = sigmas[: count + 1]
        flat = [one for pair in noises[: 2 * count] for one in pair]
        want, clock = official(start, kept, mask, part, flat)
        assert relative_error(got[count - 1].video, want[0]) <= 1e-5, count
        assert relative_error(got[count - 1].audio, want[1]) <= 1e-5, count
    np.testing.assert_allclose(levels, clock, rtol=1e-6)
    assert len(levels) == 2 * steps + (sigmas[-1] == 0)
    if sigmas[-1] == 0:
        np.testing.assert_array_equal(got[-1].video[:, :GIVEN], kept[0][:, :GIVEN])


def test_noise_is_normalised_as_the_official_one():
    """Mean 0 and unbiased deviation 1 of each stream; the official function does the same to its own draw."""
    latents = Latents(mx.zeros((1, 40, 8)), mx.zeros((1, 9, 8)))
    theirs = _get_new_noise(torch.zeros(1, 40, 8), torch.Generator().manual_seed(1)).numpy()
    draw = fresh_noise(7, 0, 6)
    for noise in (theirs, np.asarray(draw(latents, 0).video), np.asarray(draw(latents, 3).audio)):
        assert abs(noise.mean()) < 1e-6
        assert abs(noise.std(ddof=1) - 1) < 1e-6


def test_noise_has_a_key_for_each_seed_stage_draw_and_stream():
    """And an adapted audio changes nothing of it, and gets the base audio's."""
    plain = Latents(mx.zeros((1, 9, 8)), mx.zeros((1, 9, 8)))
    drawn = [
        fresh_noise(seed, stage, 4)(plain, number) for seed in (7, 8) for stage in (0, 1) for number in range(4)
    ]  # fmt: skip
    streams = [np.asarray(stream) for one in drawn for stream in one[:2]]
    assert not any(np.allclose(a, b) for i, a in enumerate(streams) for b in streams[:i])
    with_adapted = fresh_noise(7, 0, 4)(plain._replace(adapted=plain.audio), 0)
    assert mx.array_equal(with_adapted.video, drawn[0].video)
    assert mx.array_equal(with_adapted.audio, drawn[0].audio)
    assert mx.array_equal(with_adapted.adapted, drawn[0].audio)
