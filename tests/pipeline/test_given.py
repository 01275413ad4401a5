"""Pictures, a sound and a stretch of a clip that are given: runs against the official ones, and by hand."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.pipeline.drift import drift
from mlx_ltxw.pipeline.events import Decoded, Step
from mlx_ltxw.pipeline.geometry import Geometry, LatentGrid
from mlx_ltxw.pipeline.given import Material, level_of, made_of
from mlx_ltxw.pipeline.keyframes import Keyframe, appended_positions, placed
from mlx_ltxw.pipeline.latents import Conditions, Given, Latents, Remade, appended_noise, noise, noised
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.pipeline.spans import Stretch, audio_bounds, seconds_of, video_bounds
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
from tests.numbers import relative_error as error
from tests.pipeline.test_end_to_end import PROMPT, SHORT, gemma, official, request  # noqa: F401
from tests.reference import given as oracle
from tests.reference import pipeline as reference

GRID = LatentGrid(8, 32, 32, 0.01, 4)
CLIP = Geometry(96, 64, 97, 24.0, GRID)  # 13 latent frames, 101 audio tokens
RANDOM = np.random.default_rng(5)
SMALL = RANDOM.uniform(0, 255, (17, 32, 64, 3)).astype(np.uint8)
FRAMES = RANDOM.integers(0, 256, (17, 64, 96, 3), dtype=np.uint8)
WAVE = (RANDOM.standard_normal((11500, 2)) * 0.1).astype(np.float32)  # 17 frames last for 11333 samples


def job_of(**more):
    """Six guided steps of 17 frames."""
    given = {"video": reference.DEV_VIDEO, "audio": reference.DEV_AUDIO} | more
    return reference.Job(PROMPT, SHORT, width=96, height=64, frames=17, steps=6, **given)


def made(model, job, start, material, **fields):
    """Our latents of every step, and what was decoded."""
    asked = dataclasses.replace(request(job), **fields)
    events = run(plan(asked, model), None, lambda *_: Latents(*map(mx.array, start)), material)
    steps, decoded = [], None
    for event in events:
        if isinstance(event, Step):
            steps.append(event.latents)
        elif isinstance(event, Decoded):
            decoded = event
    return steps, decoded


def compare(ours, expected):
    assert len(ours) == len(expected.latents)
    for latents, (video, audio) in zip(ours, expected.latents, strict=True):
        assert error(latents.video, video) <= 1e-4
        assert error(latents.audio, audio) <= 1e-4


def test_pictures_at_frames(official, gemma, dev):  # noqa: F811
    """The first frame is written into the clip; frames 9 and 16 are appended, one of them not quite kept."""
    job = job_of()
    start = reference.noise(official, job, seed=7)
    pictures = [
        oracle.Picture(RANDOM.uniform(0, 255, (64, 96, 3)).astype(np.float32), *place)
        for place in ((0, 0.75), (9, 0.6), (16, 1.0))
    ]
    beside = np.asarray(appended_noise(12, start[0].shape[-1], seed=7))

    def change(states):
        states[0] = oracle.with_pictures(official, job, states[0], pictures, beside)

    expected = reference.run(official, gemma, job, start, decode=False, change=change)
    reads = [lambda width, height, picture=picture: picture.pixels for picture in pictures]
    ours, _ = made(dev, job, start, Material(images=reads), images=("b@last", "c@0:0.75", "a@9:0.6"))
    # placed in order of time: frame 0, 9, 16
    compare(ours, expected)
    plain, _ = made(dev, job, start, Material())
    assert error(ours[-1].video, plain[-1].video) > 0.1


def test_a_picture_for_a_given_sound(official, gemma, dev):  # noqa: F811
    """The audio is frozen at noise level 0 and not steered; what comes out is the sound that went in."""
    job = job_of(audio=reference.PLAIN)
    start = reference.noise(official, job, seed=7)

    def change(states):
        states[1] = oracle.frozen(states[1], oracle.encoded_sound(official, WAVE, start[1].shape[1]))

    expected = reference.run(official, gemma, job, start, decode=False, change=change)
    rates = []

    def sound(rate):
        rates.append(rate)
        return WAVE

    ours, decoded = made(dev, job, start, Material(sound=sound), audio="line.wav")
    compare(ours, expected)
    assert np.array_equal(ours[0].audio, ours[-1].audio)
    assert rates == [16000, 48000]
    assert np.array_equal(decoded.waveform, WAVE[: round(17 / 24 * 48000)])


@pytest.mark.parametrize(
    ("fields", "video", "audio"),
    [
        # 0.10-0.40 s touches latent frames 1 [1/24, 9/24) and 2 [9/24, 17/24), and audio tokens 3 [0.09, 0.13) to 10
        ({"retake": "0.1-0.4"}, [0, 1, 1], (3, 11)),
        ({"retake": "0.1-0.3", "retake_what": "both"}, [0, 1, 0], (3, 9)),
        ({"retake": "0.1-0.4", "retake_what": "picture"}, [0, 1, 1], None),
        ({"retake": "0.1-0.4", "retake_what": "sound"}, None, (3, 11)),
    ],
    ids=["both", "one frame", "picture", "sound"],
)
def test_a_stretch_made_anew(official, gemma, dev, fields, video, audio):  # noqa: F811
    """What is outside of the stretch is the clip's, bit for bit; a stream that is only given is frozen."""
    job = job_of(audio=reference.PLAIN if audio is None else reference.DEV_AUDIO)
    job = dataclasses.replace(job, video=reference.PLAIN if video is None else reference.DEV_VIDEO)
    start = reference.noise(official, job, seed=7)
    clean = oracle.encoded_frames(official, FRAMES), oracle.encoded_sound(official, WAVE, start[1].shape[1])

    def change(states):
        masks = None if video is None else np.repeat(np.array([video], np.float32), 6, axis=1), None
        if audio is not None:
            masks = masks[0], np.zeros((1, start[1].shape[1]), np.float32)
            masks[1][:, audio[0] : audio[1]] = 1
        for side, mask in enumerate(masks):
            kept = clean[side]
            states[side] = (
                oracle.frozen(states[side], kept) if mask is None else reference.conditioned(states[side], kept, mask)
            )

    expected = reference.run(official, gemma, job, start, decode=False, change=change)
    material = Material(frames=lambda *_: FRAMES, sound=lambda _: WAVE)
    ours, _ = made(dev, job, start, material, video="clip.mp4", **fields)
    compare(ours, expected)
    for latents in ours:
        kept = np.flatnonzero(np.repeat(video or [0, 0, 0], 6) == 0)
        assert np.array_equal(np.asarray(latents.video)[:, kept], np.asarray(ours[0].video)[:, kept])
        assert error(np.asarray(latents.video)[:, kept], clean[0][:, kept]) < 1e-5


def test_a_keyframe_lasts_for_one_frame():
    """1.2.0's `num_pixel_frames == 1`: [frame, frame + 1) / rate; rows and columns as the clip's own."""
    found = appended_positions([Keyframe("a", 0), Keyframe("b", 9), Keyframe("c", 96, 0.5)], CLIP)
    assert found.shape == (1, 3, 12)
    np.testing.assert_allclose(found[0, 0], [9.5 / 24] * 6 + [96.5 / 24] * 6, rtol=1e-6)
    np.testing.assert_array_equal(found[0, 1, :6], [16, 16, 16, 48, 48, 48])
    np.testing.assert_array_equal(found[0, 2, :6], [16, 48, 80, 16, 48, 80])
    assert appended_positions(placed(("a",), 97), CLIP) is None


@pytest.mark.parametrize(
    ("fields", "video", "audio", "seconds"),
    [
        ({"retake": "0-0.04"}, (0, 1), (0, 2), (0, 1 / 24)),
        ({"retake": "1.2-2.4"}, (4, 9), (30, 61), (25 / 24, 65 / 24)),
        ({"retake": "3.9-4.0"}, (12, 13), (98, 101), (89 / 24, 97 / 24)),
        ({"extend": 1.0}, (10, 13), (76, 101), (73 / 24, 97 / 24)),  # of 97 frames 73 are the clip's
        ({"extend": 0.01}, (12, 13), (93, 101), (89 / 24, 97 / 24)),
        ({"extend": -1.0}, (0, 4), (0, 26), (0, 25 / 24)),  # the clip begins at frame 24, the end of latent frame 3
    ],
)
def test_stretches_are_whole_tokens(fields, video, audio, seconds, dev):
    """By hand: latent frame f lasts over video frames 8f - 7 to 8f, token t from 0.04 t - 0.03 to 0.04 t + 0.01 s."""
    settings = plan(dataclasses.replace(request(job_of()), video="clip.mp4", frames=97, **fields), dev).settings
    found = made_of(settings, CLIP)
    assert (found.video, found.audio) == (Stretch(*video), Stretch(*audio))
    assert seconds_of(found.video, video_bounds(CLIP)) == pytest.approx(seconds)
    begin, end = (max(0, token * 0.04 - 0.03) for token in audio)
    assert seconds_of(found.audio, audio_bounds(CLIP)) == pytest.approx((begin, end))


@pytest.mark.parametrize("extend", [0.3, -0.3])
def test_a_longer_clip_keeps_its_tokens(dev, extend):
    """Of 17 frames 9 are the clip's: the last 8 or the first 8 are made, and the first frame of a clip that gets a
    lead, which is a latent frame of its own."""
    job = job_of()
    start = [RANDOM.standard_normal((1, count, width)).astype(np.float32) for count, width in ((18, 8), (18, 32))]
    material = Material(frames=lambda *_: FRAMES[:9], sound=lambda _: WAVE)
    ours, _ = made(dev, job, start, material, video="clip.mp4", extend=extend)
    vae = dev.load("video_vae", mx.float32)
    clean = np.asarray(vae.encode(mx.array(FRAMES[:9])[None].astype(mx.float32) / 127.5 - 1)).reshape(1, 12, 8)
    kept, own = (slice(0, 12), clean) if extend > 0 else (slice(12, 18), clean[:, 6:])
    for latents in ours:
        assert np.array_equal(np.asarray(latents.video)[:, kept], own)
    new, sound = (slice(12, 18), 0) if extend > 0 else (slice(0, 12), -1)  # the sound's first or last token is given
    assert error(ours[-1].video[:, new], ours[0].video[:, new]) > 1e-3
    assert np.array_equal(np.asarray(ours[0].audio)[:, sound], np.asarray(ours[-1].audio)[:, sound])


def test_a_sound_made_again_starts_at_its_level(dev):
    """By hand: above the level the sound waits at it, `x = clean + (noise - clean) * level`; then it moves."""
    job = job_of()
    start = [RANDOM.standard_normal((1, count, width)).astype(np.float32) for count, width in ((18, 8), (18, 32))]
    material = Material(sound=lambda _: WAVE)
    asked = plan(dataclasses.replace(request(job), audio="line.wav", revoice=0.8), dev)
    sigmas = asked.stages[0].sigmas
    level = level_of(0.8, sigmas)
    assert level == sigmas[np.abs(sigmas[:-1] - 0.8).argmin()]
    ours, _ = made(dev, job, start, material, audio="line.wav", revoice=0.8)
    given, _ = made(dev, job, start, material, audio="line.wav")
    waiting = np.asarray(given[0].audio) + (start[1] - np.asarray(given[0].audio)) * level
    for sigma, latents in zip(sigmas[1:], ours, strict=True):
        moved = error(latents.audio, waiting)
        assert moved < 1e-6 if sigma >= level else moved > 1e-3
    whole, _ = made(dev, job, start, material, audio="line.wav", revoice=1.0)
    fresh, _ = made(dev, job, start, Material())
    assert error(whole[-1].audio, fresh[-1].audio) < 1e-5  # nothing is left of the given sound


BUILT_IN = Request(PROMPT, seeds=(3,), width=64, height=32, frames=17, steps=3)


def latents_of(material, **fields):
    """The final latents of a short run of the built-in model."""
    events = run(plan(dataclasses.replace(BUILT_IN, **fields), ModelDir.open(BUILTIN_MODEL)), material=material)
    return [event.latents for event in events if isinstance(event, Step)][-1]


@pytest.mark.parametrize(
    ("material", "fields"),
    [
        (Material(images=[lambda w, h: SMALL[0], lambda w, h: SMALL[16]]), {"images": ("a", "b@last")}),
        (Material(frames=lambda *_: SMALL, sound=lambda _: WAVE), {"video": "clip.mp4", "retake": "0.2-0.4"}),
        (Material(frames=lambda *_: SMALL[:9], sound=lambda _: WAVE), {"video": "clip.mp4", "extend": 0.3}),
    ],
    ids=["pictures", "stretch", "longer"],
)
def test_the_lock_holds_with_what_is_given(material, fields):
    """Picture and base sound are bit for bit those without the adapter; the adapted sound keeps what is given."""
    plain = latents_of(material, **fields)
    locked = latents_of(material, adapters=("whisper",), **fields)
    assert np.array_equal(plain.video, locked.video)
    assert np.array_equal(plain.audio, locked.audio)
    different = np.any(np.asarray(locked.adapted) != np.asarray(plain.audio), axis=-1)[0]
    settings = plan(dataclasses.replace(BUILT_IN, **fields), ModelDir.open(BUILTIN_MODEL)).settings
    made_anew = made_of(settings, Geometry(64, 32, 17, 24.0, GRID)).audio.mask(18)[0].astype(bool)
    np.testing.assert_array_equal(different, made_anew)


def test_under_the_lock_a_sound_made_again_leaves_the_picture_of_the_given_one():
    material = Material(sound=lambda _: WAVE)
    plain = latents_of(material, audio="line.wav")
    locked = latents_of(material, audio="line.wav", revoice=0.7, adapters=("whisper",))
    assert np.array_equal(plain.video, locked.video)
    assert np.array_equal(plain.audio, locked.audio)  # the given sound, which the picture reads
    assert error(locked.adapted, plain.audio) > 0.05
    job = plan(dataclasses.replace(BUILT_IN, audio="line.wav", revoice=0.7), ModelDir.open(BUILTIN_MODEL))
    level = level_of(0.7, job.stages[0].sigmas)
    drawn = noise(job.geometry, 1, plain.audio.shape[-1], 3).audio
    assert error(locked.adapted, noised(plain.audio, drawn, level)) > 0.05  # it left where it began, at its own level
    unlocked = latents_of(material, audio="line.wav", revoice=0.7, adapters=("whisper",), lock_video=False)
    assert not np.array_equal(plain.video, unlocked.video)


def test_a_stage_after_another_begins_where_that_one_ended():
    """By hand: what is given stays, appended tokens start from noise alone, a sound made again goes no higher than its
    level."""
    previous, noise = np.array([[[2.0], [4.0]]]), np.array([[[1.0], [1.0], [8.0]]])
    tokens, mask = mx.array([[[7.0], [0.0], [5.0]]]), mx.array([[0.0, 1.0, 0.5]])
    given = Given(tokens, mask, np.zeros((1, 3, 1), np.float32))
    begun = given.begin(mx.array(previous), mx.array(noise), 0.5)
    np.testing.assert_allclose(begun, [[[7.0], [2.5], [4.5]]])  # 4 and 1 half and half; 0 and 8, half of it 5
    again = Remade(mx.array(previous * 10), 0.25)
    np.testing.assert_allclose(again.begin(mx.array(previous), mx.array(noise[:, :2]), 0.5), [[[1.75], [3.25]]])
    np.testing.assert_allclose(again.begin(None, mx.array(noise[:, :2]), 1.0), [[[15.25], [30.25]]])
    assert Conditions(video=given).own(Latents(mx.array(noise), mx.array(previous))).video.shape == (1, 2, 1)


def test_drift_is_measured_with_what_is_given():
    """Without an adapter acting there is none, whatever is given."""
    material = Material(images=[lambda w, h: SMALL[0], lambda w, h: SMALL[16]])
    asked = dataclasses.replace(BUILT_IN, images=("a", "b@last"))
    job = plan(asked, ModelDir.open(BUILTIN_MODEL))
    networks = Networks(job.model, job.dtype)
    (found,) = drift(job, {3: latents_of(material, images=("a", "b@last"))}, networks, material=material)
    assert (found.video, found.audio) == (0, 0)


def test_a_register_in_time_acts_on_the_clips_own_tokens():
    """Tokens of keyframes have times of their own, so that strengths in time fit."""
    material = Material(images=[lambda w, h: SMALL[16]])
    locked = latents_of(
        material, images=("a@last",), adapters=("whisper",), register_at="0-0.4=whispering,0.4-1=normal"
    )
    plain = latents_of(material, images=("a@last",))
    assert np.array_equal(plain.video, locked.video)
