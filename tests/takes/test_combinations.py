"""Everything that can be given, with every recipe and every kind of sound: it works, and holds what it says, or it is
refused with one sentence.

Of each combination that works: the picture and the base's sound are bit for bit those without adapters, what is given
is in the latents as it was encoded, each take is its own single run, blocks read from disk change nothing, a run that
was cut goes on with the same bits, and the metadata make the same plan again.
"""

import dataclasses
import functools
import itertools
from contextlib import closing

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import write_wav
from mlx_ltxw.media.mp4 import write_mp4
from mlx_ltxw.pipeline.encode import encode_frames, encode_picture, encode_sound
from mlx_ltxw.pipeline.events import Resumed, Step
from mlx_ltxw.pipeline.guidance import NO_GUIDANCE
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.point import NOTHING_DONE, DoneBefore
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.voices import take_rows
from mlx_ltxw.takes.given import material_of
from mlx_ltxw.takes.make import fit, follow
from mlx_ltxw.takes.record import clip_record, only_take
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import RESIDENT, STREAMED
from tests.numbers import relative_error
from tests.pipeline.conftest import dev, distilled, two_dev, two_distilled, upsamplers  # noqa: F401
from tests.pipeline.test_end_to_end import official  # noqa: F401
from tests.pipeline.test_lock import whisper  # noqa: F401
from tests.pipeline.test_two_stages import lora  # noqa: F401

PROMPT = 'a woman, (woman, whispering): "hush"'
CLOSE = 1e-5
GIVEN = {
    "a picture": {"images": ("{face}",)},
    "keyframes": {"images": ("{face}:0.8", "{face}@last")},
    "a sound": {"audio": "{line}"},
    "a sound again": {"audio": "{line}", "revoice": 0.7},
    "a picture and a sound": {"audio": "{line}", "images": ("{face}",)},
    "a picture and a sound again": {"audio": "{line}", "revoice": 0.7, "images": ("{face}",)},
    "a clip": {"video": "{clip}"},
    "a clip's sound again": {"video": "{clip}", "revoice": 0.7},
    "another sound again": {"video": "{clip}", "audio": "{line}", "revoice": 0.7},
    "a stretch": {"video": "{clip}", "retake": "0.2-0.4"},
    "a stretch of sound": {"video": "{clip}", "retake": "0.2-0.4", "retake_what": "sound"},
    "a stretch of picture": {"video": "{clip}", "retake": "0.2-0.4", "retake_what": "picture"},
    "what follows": {"video": "{clip}", "extend": 0.3},
    "what comes before": {"video": "{clip}", "extend": -0.3},
}
RECIPES = ("one-stage", "distilled", "two-stage", "hq")
NO_SOUND = {"a sound", "a picture and a sound", "a stretch of picture"}
"""Where no sound is made, so that no adapter has one to act on."""
ONE_STAGE = {name for name, fields in GIVEN.items() if "video" in fields}
"""What no recipe of two stages makes."""
WHOLE = set(itertools.product(GIVEN, RECIPES))
WORKING = sorted((given, recipe) for given, recipe in WHOLE if recipe == "one-stage" or given not in ONE_STAGE)
REFUSED = sorted(WHOLE - {*WORKING})
SEEN = NO_SOUND | {"another sound again", "a picture and a sound again", "a stretch of sound", "a clip"}
"""Left to the slow tests, or seen below with two stages."""
QUICK = [(given, "one-stage") for given in GIVEN if given not in SEEN] + [("a picture and a sound again", "two-stage")]
DEEP = [("a clip's sound again", "one-stage"), ("what comes before", "one-stage")]
TAKES = ("seed=+0", "adapter=none")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("given"), np.random.default_rng(8)
    Image.fromarray(random.integers(0, 256, (64, 128, 3), dtype=np.uint8)).save(folder / "face.png")
    wave = (random.standard_normal((36000, 2)) * 0.1).astype(np.float32)
    write_wav(folder / "line.wav", wave, 48000)
    frames = random.integers(0, 256, (17, 4, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    write_mp4(folder / "clip.mp4", [frames], 24, wave)
    return {"face": folder / "face.png", "line": folder / "line.wav", "clip": folder / "clip.mp4"}


@functools.cache
def networks(path, residency=RESIDENT):
    """Kept from run to run, which changes nothing (`tests/pipeline/test_stages.py`)."""
    return Networks(ModelDir.open(path), mx.float32, keep=True, residency=residency)


def named(fields, files):
    """The fields of a request, with files in the place of their names."""
    return {
        name: tuple(one.format(**files) for one in value) if isinstance(value, tuple)
        else value.format(**files) if isinstance(value, str) else value
        for name, value in fields.items()
    }  # fmt: skip


@pytest.fixture
def asked(files, request, lora):  # noqa: F811
    """(what is given, the recipe) -> a model, and a request of few steps without guidance."""

    def asked(given, recipe):
        steps = {} if recipe == "distilled" else {"steps": 2}
        size = {"width": 64, "height": 32} if recipe == "one-stage" else {"width": 128, "height": 64}
        frames = {} if "video" in GIVEN[given] else {"frames": 17}
        if recipe in ("two-stage", "hq"):
            steps["distilled_lora"] = str(lora.path)
        wanted = Request(
            PROMPT, pipeline="two-stage" if recipe == "distilled" else recipe, video_guidance=NO_GUIDANCE,
            audio_guidance=NO_GUIDANCE, **size, **frames, **steps, **named(GIVEN[given], files),
        )  # fmt: skip
        model = request.getfixturevalue({"one-stage": "dev", "distilled": "two_distilled"}.get(recipe, "two_dev"))
        return model, wanted

    return asked


def stepped(job, residency=RESIDENT, progress=NOTHING_DONE):
    """The steps of a run, which ends before anything is decoded."""
    found = []
    with closing(follow(job, networks(job.model.path, residency), progress)) as events:
        for event in events:
            if isinstance(event, Step):
                found.append(event)
                if event.index == event.total:
                    return found
            assert not isinstance(event, Resumed) or progress is not NOTHING_DONE
    raise AssertionError("the run ended before its last step")


def same(ours, theirs):
    return all((a is None and b is None) or mx.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def check_kept(job, latents):
    """What is given is in the latents as it was encoded, bit for bit; every stream, every take."""
    settings, material, own = job.settings, material_of(job), networks(job.model.path)
    if settings.images and "0.8" not in settings.images[0]:
        tokens = encode_picture(own.video_vae(), material.images[0](settings.width, settings.height), mx.float32)
        assert mx.array_equal(latents.video[:, : tokens.shape[1]], tokens)
    if settings.video is not None:
        tokens = encode_frames(own.video_vae(), material.frames(settings.width, settings.height), mx.float32)
        each, whole = tokens.shape[1] // 3, latents.video.shape[1]  # 17 frames are 3 latent frames of 2 tokens
        first, made = {
            "0.2-0.4": (0, [] if settings.retake_what == "sound" else [1, 2]),  # latent frame 1 is 1/24 to 9/24 s
            None: (whole // each - 3 if (settings.extend or 1) < 0 else 0, [0] if (settings.extend or 1) < 0 else []),
        }[settings.retake]
        for frame in {0, 1, 2} - {*made}:
            ours = latents.video[:, (first + frame) * each : (first + frame + 1) * each]
            assert mx.array_equal(ours, tokens[:, frame * each : (frame + 1) * each]), frame
    if settings.retake and settings.retake_what != "picture":
        vae = own.audio_vae()
        tokens = encode_sound(vae, material.sound(vae.config.sample_rate), job.geometry.audio_tokens, mx.float32)
        for stream in (latents.audio, *(latents.adapted if latents.adapted is not None else [])):
            row = stream.reshape(tokens.shape[1:])
            for kept in (slice(0, 5), slice(11, None)):  # token 5 is 0.17 to 0.21 s, token 10 0.37 to 0.41 s
                assert mx.array_equal(row[kept], tokens[0, kept])
            assert relative_error(row[5:11], tokens[0, 5:11]) > 1e-2
    if settings.audio is not None and settings.revoice is None:
        vae = own.audio_vae()
        tokens = encode_sound(vae, material.sound(vae.config.sample_rate), job.geometry.audio_tokens, mx.float32)
        assert mx.array_equal(latents.audio, tokens)


@pytest.mark.parametrize(("given", "recipe"), QUICK, ids=str)
def test_the_lock_takes_and_what_is_given(asked, whisper, given, recipe):  # noqa: F811
    """The picture is nobody's, what is given stays, the first take is the adapter's own run."""
    check_lock(*asked(given, recipe), str(whisper[0]))


@pytest.mark.parametrize(
    ("given", "recipe"), [one for one in QUICK if one[0] in DEEP or one[1] != "one-stage"], ids=str
)
def test_takes_alone_cut_and_from_disk(asked, whisper, given, recipe):  # noqa: F811
    check_takes(*asked(given, recipe), str(whisper[0]))


@pytest.mark.slow
@pytest.mark.parametrize(("given", "recipe"), WORKING, ids=str)
def test_every_combination(asked, whisper, given, recipe):  # noqa: F811
    model, request = asked(given, recipe)
    if given in NO_SOUND:
        job = fit(request, model)
        check_kept(job, stepped(job)[-1].latents)
        return
    check_lock(model, request, str(whisper[0]))
    check_takes(model, request, str(whisper[0]))


@pytest.mark.slow
@pytest.mark.parametrize(("given", "recipe"), WORKING, ids=str)
def test_without_the_lock_and_in_time(asked, whisper, given, recipe):  # noqa: F811
    """An adapter on the picture leaves what is given; one that is off at all times leaves the base's sound."""
    model, request = asked(given, recipe)
    if given in NO_SOUND:
        return
    adapted = dataclasses.replace(request, adapters=(str(whisper[0]),))
    job = fit(dataclasses.replace(adapted, lock_video=False), model)
    assert not job.settings.locked
    free = stepped(job)[-1].latents
    assert free.adapted is None
    check_kept(job, free)
    if job.settings.makes_picture:
        locked = stepped(fit(adapted, model))[-1].latents
        assert relative_error(free.video, locked.video) > 1e-4
    if request.revoice is None:
        plain = stepped(fit(request, model))[-1].latents
        off = stepped(fit(dataclasses.replace(adapted, register_at="0-99=normal"), model))[-1].latents
        assert relative_error(off.sound, plain.sound) < CLOSE


def check_lock(model, request, adapter):
    plain = None
    if request.video is None or request.audio is None:  # with both nothing is made unless it is made again
        base = fit(dataclasses.replace(request, revoice=None) if request.audio else request, model)
        plain = stepped(base)[-1].latents
        check_kept(base, plain)
    voice = dataclasses.replace(request, adapters=(adapter,))
    job = fit(dataclasses.replace(voice, takes=TAKES), model)
    latents = stepped(job)[-1].latents
    check_kept(job, latents)
    if plain is not None:
        assert mx.array_equal(latents.video, plain.video)
        assert request.revoice is not None or mx.array_equal(latents.audio, plain.audio)
    # A given picture is not locked in a run of one sound, which it could not change.
    alone = fit(voice, model) if job.settings.makes_picture else only_take(job, 1)
    locked = stepped(alone)[-1].latents
    assert same(latents[:2], locked[:2])
    assert relative_error(latents.adapted[0], locked.adapted[0]) < CLOSE
    again = fit(Request.from_dict(clip_record(job, job.settings.seeds[0])), model)
    assert (again.settings, again.takes) == (job.settings, job.takes)


def check_takes(model, request, adapter):
    """Each is its single run, and no two are the same; cut and begun again, and with blocks from disk, all bits are."""
    takes = tuple(take.format(adapter=adapter) for take in (*TAKES, "adapter={adapter}:0.4 seed=+1"))
    job = fit(dataclasses.replace(request, adapters=(adapter,), takes=takes), model)
    steps = stepped(job)
    latents, rows = steps[-1].latents, take_rows(job)
    # The base's own sound is a take without adapters, unless the picture's is the given one and the take's made again.
    assert rows == ([0, None, 1] if request.revoice is None else [0, 1, 2])
    sounds = [latents.audio[0] if row is None else latents.adapted[row] for row in rows]
    for number in (2, 3):
        alone = stepped(only_take(job, number))[-1].latents
        assert mx.array_equal(alone.video, latents.video)
        assert relative_error(sounds[number - 1], alone.sound[0]) < CLOSE
    for one, two in itertools.combinations([*sounds, *([latents.audio[0]] if request.revoice else [])], 2):
        assert relative_error(one, two) > 1e-4
    cut = steps[-3] if len(steps) > 4 else steps[0]
    again = stepped(job, progress=DoneBefore({job.settings.seeds[0]: cut.point}))
    assert [step.index for step in again] == [step.index for step in steps if step.index > cut.index]
    assert same(again[-1].latents, latents)
    assert same(stepped(job, STREAMED)[-1].latents, latents)


@pytest.mark.parametrize("given", sorted(NO_SOUND))
@pytest.mark.parametrize(
    "more", [{"adapters": ("whisper.safetensors",)}, {"takes": ("seed=+1",)}], ids=["adapter", "takes"]
)
def test_a_given_sound_has_no_adapter_and_no_takes(asked, given, more):
    model, request = asked(given, "one-stage")
    with pytest.raises(UserError, match=r"no sound for an adapter to act on|sound of this run is given"):
        fit(dataclasses.replace(request, **more), model)


@pytest.mark.parametrize(("given", "recipe"), REFUSED, ids=str)
def test_what_two_stages_do_not_make_is_said(asked, given, recipe):
    model, request = asked(given, recipe)
    with pytest.raises(UserError, match="Two stages make a whole new picture, which video does not"):
        fit(request, model)
