"""From a checkpoint file to picture and sound: converted and run, against the official run of the same file."""

import dataclasses
import itertools

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_ltxw.pipeline.contexts import encode_prompts
from mlx_ltxw.pipeline.events import Conditioned, Decoded, Step
from mlx_ltxw.pipeline.given import NO_MATERIAL, Material
from mlx_ltxw.pipeline.guidance import Guidance
from mlx_ltxw.pipeline.latents import Latents
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from tests.numbers import relative_error
from tests.reference import pipeline as reference
from tests.reference.official import Official

from ltx_core.components.guiders import MultiModalGuiderParams

SHORT = "rain"
PROMPT = 'a woman in dim light, (woman, whispering): "close your eyes"'
LONG = "the camera moves slowly towards the speaker, her lips move with the words; " * 12
LATENTS, WAVEFORM, PICTURE = 1e-4, 1e-4, 1e-4  # relative errors


@pytest.fixture(scope="module")
def official(made_checkpoint):
    return Official.open(made_checkpoint)


@pytest.fixture(scope="module")
def gemma(made_gemma):
    return reference.load_text_encoder(made_gemma)


def guidance(params: MultiModalGuiderParams) -> Guidance:
    return Guidance(
        params.cfg_scale, params.stg_scale, params.modality_scale, params.rescale_scale, tuple(params.stg_blocks)
    )


def request(job: reference.Job) -> Request:
    return Request(
        job.prompt,
        negative_prompt=job.negative_prompt,
        seeds=(7,),
        width=job.width,
        height=job.height,
        frames=job.frames,
        frame_rate=job.frame_rate,
        steps=job.steps,
        video_guidance=None if job.video is None else guidance(job.video),
        audio_guidance=guidance(job.audio),
        audio_only=job.video is None,
        video=None if job.picture is None else "given.mp4",
        remove_offset=False,
    )


def compare(model, official, gemma, job: reference.Job, decode: bool = True, levels: float = 0.6):
    """Runs both and compares the latents of every step and, if `decode`, the picture and the waveform.

    Args:
        levels: How far the rounded picture may be from the official one, of 255; rounding alone makes 0.5.
    """
    start = reference.noise(official, job, seed=7)
    expected = reference.run(official, gemma, job, start, decode)

    def noise(geometry, video_channels, audio_channels, seed, stage):
        assert seed == 7
        assert start[0].shape == (1, geometry.video_tokens, video_channels)
        assert start[1].shape == (1, geometry.audio_tokens, audio_channels)
        return Latents(mx.array(start[0]), mx.array(start[1]))

    job_plan = plan(request(job), model)
    events = run(
        job_plan,
        noise_source=noise,
        material=Material(frames=lambda *_: job.picture) if job.picture is not None else NO_MATERIAL,
    )
    assert isinstance(next(events), Conditioned)
    steps = list(itertools.islice(events, len(expected.latents)))
    for step, (video, audio) in zip(steps, expected.latents, strict=True):
        assert isinstance(step, Step)
        assert step.total == len(steps)
        assert relative_error(step.latents.audio, audio) <= LATENTS, step.index
        assert (step.latents.video is None) == (video is None)
        if video is not None:
            assert relative_error(step.latents.video, video) <= LATENTS, step.index
    if not decode:
        return
    (decoded,) = _taken(events)
    assert decoded.rate == 48000
    assert relative_error(decoded.waveform, expected.waveform) <= WAVEFORM
    if job.video is None or job.picture is not None:
        assert decoded.video is None
        return
    frames = np.concatenate(decoded.video)
    assert frames.dtype == np.uint8
    assert np.abs(frames - np.clip((expected.picture + 1) * 127.5, 0, 255)).max() < levels  # rounded, not cut off
    vae = model.load("video_vae", mx.float32)
    latent = steps[-1].latents.video.reshape(1, *job_plan.geometry.latent_shape, -1)
    assert relative_error(vae.decode(latent)[0], expected.picture) <= PICTURE


def _taken(events):
    """The events, each `Decoded` with its frames taken, as they must be before the next event."""
    for event in events:
        if isinstance(event, Decoded) and event.video is not None:
            event = dataclasses.replace(event, video=list(event.video))
        yield event


@pytest.mark.parametrize("frame_rate", [24.0, 25.0, 23.976, 29.97, 30.0, 12.5])
def test_positions_are_equal_to_the_last_bit(official, dev, frame_rate):
    """RoPE multiplies a position by up to 1.6e4 rad: one unit in the last place of fp32 turns its angle by 1e-3."""
    job = reference.Job(PROMPT, width=96, height=64, frames=121, frame_rate=frame_rate)
    geometry = plan(request(job), dev).geometry
    ours = (geometry.video_positions(), geometry.audio_positions())
    for tools, positions in zip(reference.latent_tools(official, job), ours, strict=True):
        bounds = tools.create_initial_state("cpu", torch.float32).positions
        midpoints = ((bounds[..., 0] + bounds[..., 1]) / 2).numpy()
        assert positions.dtype == midpoints.dtype == np.float32
        np.testing.assert_array_equal(positions, midpoints)


@pytest.mark.parametrize("prompts", [(SHORT,), (PROMPT,), (LONG,), (PROMPT, SHORT), (LONG, PROMPT)])
def test_contexts(official, gemma, dev, prompts):
    """Left-padded prompts of several lengths, alone and in a batch with another length."""
    contexts = encode_prompts(dev, list(prompts), mx.float32)
    for index, prompt in enumerate(prompts):
        video, audio = reference.encode(official, gemma, prompt)
        assert relative_error(contexts.video(index == 1), video) <= 1e-5
        assert relative_error(contexts.audio(index == 1), audio) <= 1e-5


@pytest.mark.parametrize(
    "size",
    [
        {"prompt": PROMPT, "width": 96, "height": 64, "frames": 17},
        {"prompt": LONG, "width": 32, "height": 160, "frames": 9, "frame_rate": 30.0},
        {"prompt": SHORT, "width": 64, "height": 32, "frames": 33, "frame_rate": 23.976},
        {"prompt": PROMPT, "width": 64, "height": 64, "frames": 1, "frame_rate": 4.0},
    ],
    ids=["wide", "tall", "long", "still"],
)
def test_eight_distilled_steps(official, gemma, distilled, size):
    compare(distilled, official, gemma, reference.Job(**size))


def test_six_guided_dev_steps(official, gemma, dev):
    job = reference.Job(
        PROMPT, LONG, width=96, height=64, frames=17, steps=6, video=reference.DEV_VIDEO, audio=reference.DEV_AUDIO
    )
    compare(dev, official, gemma, job)


@pytest.mark.parametrize(
    "alone",
    [
        {"cfg_scale": 3.0},
        {"stg_scale": 1.0, "stg_blocks": [0]},
        {"stg_scale": 1.0, "stg_blocks": [0, 1]},
        {"modality_scale": 3.0},
        {"cfg_scale": 4.0, "rescale_scale": 1.0},
    ],
    ids=["cfg", "stg", "stg of two blocks", "modality", "rescale"],
)
@pytest.mark.parametrize("side", ["video", "audio"])
def test_each_guidance_alone(official, gemma, dev, side, alone):
    """Steers one modality by one pass; the other one stays plain."""
    job = reference.Job(PROMPT, SHORT, steps=2, **{side: MultiModalGuiderParams(**alone)})
    compare(dev, official, gemma, job, decode=False)


def test_audio_alone(official, gemma, dev, distilled):
    guided = dataclasses.replace(reference.DEV_AUDIO, modality_scale=1.0)
    compare(dev, official, gemma, reference.Job(PROMPT, SHORT, frames=41, steps=6, video=None, audio=guided))
    compare(distilled, official, gemma, reference.Job(LONG, frames=33, frame_rate=25.0, video=None))


def test_a_voice_for_a_given_picture(official, gemma, dev):
    """The video is frozen at noise level 0 while the audio steps down from 1: two different sigmas throughout."""
    picture = np.random.default_rng(3).integers(0, 256, (17, 64, 96, 3), dtype=np.uint8)
    job = reference.Job(
        PROMPT, SHORT, width=96, height=64, frames=17, steps=6, audio=reference.DEV_AUDIO, picture=picture
    )
    compare(dev, official, gemma, job)
