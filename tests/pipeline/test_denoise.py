"""A guided prediction against one put together by hand, of forwards that each go over the blocks by themselves."""

import mlx.core as mx
import numpy as np
import pytest

import tests.reference.transformer as official
from mlx_ltxw.models.transformer import NO_SKIPS, Accompaniment, Modality, Skips, Transformer, TransformerConfig, Walk
from mlx_ltxw.pipeline.contexts import Contexts
from mlx_ltxw.pipeline.denoise import Denoiser, rotaries
from mlx_ltxw.pipeline.geometry import Geometry, LatentGrid
from mlx_ltxw.pipeline.guidance import NO_GUIDANCE, Guidance
from mlx_ltxw.pipeline.latents import noise
from mlx_ltxw.pipeline.streams import AdaptedStream
from mlx_ltxw.weights.streaming import STREAMED

SIGMA = 0.6
STEERED = Guidance(cfg=3.0, stg=1.5, modality=2.0, stg_blocks=(1,))
GEOMETRY = Geometry(64, 32, 9, 24.0, LatentGrid(frames=8, height=32, width=32, mel_seconds=0.01, mel_frames=4))


@pytest.fixture(scope="module")
def model():
    return Transformer(TransformerConfig.read(official.small_config(layers=3)))


@pytest.fixture(scope="module")
def adapted(model):
    made = Transformer(model.config)
    made.update(model.parameters())
    for block in made.transformer_blocks:
        block.audio_attn1.to_q.weight = block.audio_attn1.to_q.weight * 1.5
    return made


def setting(model):
    """Contexts of a prompt and a negative prompt, rotations, starting noise."""
    config = model.config
    video, audio = (
        mx.random.normal((2, 6, stream.context_dim), key=mx.random.key(1)) for stream in (config.video, config.audio)
    )
    start = noise(GEOMETRY, config.video.in_channels, config.audio.in_channels, 4)
    return Contexts(video, audio, ("p", "n")), rotaries(model, GEOMETRY, mx.float32), start


def by_hand(model, adapted, negative, skips):
    """Clean latents of video, audio and adapted audio as one pass predicts them: `latent - sigma * velocity`."""
    contexts, rotary, start = setting(model)
    level = mx.array([SIGMA])
    video = Modality(start.video, level, level[:, None], contexts.video(negative), rotary[0])
    audio = Modality(start.audio, level, level[:, None], contexts.audio(negative), rotary[1])
    of_video, of_audio, (of_adapted,) = model.accompanied([Accompaniment(adapted, audio)], video, audio, skips)
    pairs = (start.video, of_video), (start.audio, of_audio), (start.audio, of_adapted)
    return [np.asarray(latent - SIGMA * velocity, np.float64) for latent, velocity in pairs]


def denoiser(model, streams, guidance, walk=Walk()):  # noqa: B008  frozen
    contexts, rotary, _ = setting(model)
    return Denoiser(model, streams, contexts, guidance, guidance, *rotary, mx.float32, walk=walk)


@pytest.mark.parametrize("walk", [Walk(), Walk.bounded()], ids=["whole", "parts"])
def test_every_kind_of_guidance_at_once(model, adapted, walk):
    start = setting(model)[2]
    got = denoiser(model, [AdaptedStream(adapted)], STEERED, walk)(start._replace(adapted=start.audio), SIGMA)
    cond, uncond, ptb, mod = (
        by_hand(model, adapted, *one)
        for one in (
            (False, NO_SKIPS), (True, NO_SKIPS), (False, Skips(frozenset({1}), frozenset({1}))),
            (False, Skips(cross=True)),
        )
    )  # fmt: skip
    for made, c, u, p, m in zip((got.video, got.audio, got.adapted), cond, uncond, ptb, mod, strict=True):
        want = c + 2.0 * (c - u) + 1.5 * (c - p) + 1.0 * (c - m)
        assert np.abs(np.asarray(made) - want).max() < 2e-5 * np.abs(want).max()


def test_lock_keeps_picture_and_base_sound_under_guidance(model, adapted):
    start = setting(model)[2]
    plain = denoiser(model, [], STEERED)(start, SIGMA)
    locked = denoiser(model, [AdaptedStream(adapted)], STEERED)(start._replace(adapted=start.audio), SIGMA)
    assert mx.array_equal(plain.video, locked.video)
    assert mx.array_equal(plain.audio, locked.audio)
    assert not mx.array_equal(locked.adapted, locked.audio)


def test_one_pass_alone_is_the_plain_prediction(model, adapted):
    got = denoiser(model, [], NO_GUIDANCE)(setting(model)[2], SIGMA)
    video, audio, _ = by_hand(model, adapted, False, NO_SKIPS)
    assert np.abs(np.asarray(got.video) - video).max() < 1e-6 * np.abs(video).max()
    assert np.abs(np.asarray(got.audio) - audio).max() < 1e-6 * np.abs(audio).max()


def test_streamed_blocks_are_read_once_a_step(dev):
    """Whatever the passes; the first block of the next step is on its way when one ends."""
    model = dev.load_transformer(mx.float32, residency=STREAMED)
    blocks = model.transformer_blocks
    sizes = [sum(tensor.nbytes for tensor in tensors.values()) for tensors in blocks.streamed]
    start = setting(model)[2]
    guided = denoiser(model, [], STEERED, Walk.bounded())
    guided(start, SIGMA)
    guided(start, SIGMA)
    ahead = sizes[0]
    assert 2 * sum(sizes) <= blocks.traffic.bytes_read <= 2 * sum(sizes) + ahead
