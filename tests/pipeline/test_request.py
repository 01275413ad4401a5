"""Requests, their defaults and their way through metadata."""

import dataclasses
import json

import numpy as np
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.guidance import DEFAULT_NEGATIVE_PROMPT, NO_GUIDANCE, Guidance
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.resolve import defaults_for, resolve
from mlx_ltxw.prompts.takes import read_take

DEV = defaults_for("dev", {})


def test_defaults_of_ltx_2_3():
    settings = resolve(Request("a man"), DEV, "dev")
    assert (settings.width, settings.height, settings.frames, settings.frame_rate) == (768, 512, 121, 24.0)
    assert settings.steps == 30
    assert settings.video_guidance == Guidance(3.0, 1.0, 3.0, 0.7, (28,))
    assert settings.audio_guidance == Guidance(7.0, 1.0, 3.0, 0.7, (28,))
    assert settings.negative_prompt == DEFAULT_NEGATIVE_PROMPT


def test_distilled_defaults():
    settings = resolve(Request("a man"), defaults_for("distilled", {}), "distilled")
    assert settings.steps == 8
    assert settings.guidance == (NO_GUIDANCE, NO_GUIDANCE)


def test_a_model_may_bring_its_own_defaults():
    own = {"width": 128, "steps": 12, "audio_guidance": {"cfg": 3, "stg_blocks": [4]}}
    settings = resolve(Request("a man", height=96), defaults_for("dev", own), "dev")
    assert (settings.width, settings.height, settings.steps) == (128, 96, 12)
    assert settings.audio_guidance == Guidance(cfg=3.0, stg_blocks=(4,))


def test_metadata_gives_the_same_settings():
    request = Request("a man", seeds=(3, 4), adapters=("whisper:0.5",), lock_video=False, steps=5)
    settings = resolve(request, DEV, "dev")
    stored = json.loads(json.dumps(settings.to_dict(seed=4) | {"mlx_ltxw": "0.1.0", "model": {"name": "x"}}))
    again = resolve(Request.from_dict(stored), defaults_for("dev", {"width": 64}), "dev")
    assert again == dataclasses.replace(settings, seeds=(4,))


@pytest.mark.parametrize(
    ("request_", "variant", "words"),
    [
        (Request("  "), "dev", "prompt is empty"),
        (Request("a", seeds=()), "dev", "no seed"),
        (Request("a", steps=0), "dev", "0 denoising steps"),
        (Request("a", steps=7), "distilled", "exactly 8 steps"),
        (Request("a", audio_guidance=Guidance(cfg=2.0)), "distilled", "takes no guidance"),
        (Request("a", register_at="0-1=normal"), "dev", "no adapter"),
        (Request("a", adapters=("x",), register_at="0-1=normal", fuse=True), "dev", "fused adapter"),
        (Request("a", video="x.mp4", audio_only=True), "dev", "exclude each other"),
    ],
)
def test_what_cannot_be_made(request_, variant, words):
    with pytest.raises(UserError, match=words):
        resolve(request_, defaults_for(variant, {}), variant)


@pytest.mark.parametrize(
    "values", [{"prompt": "a", "unknown": 1}, {"prompt": 3}, {}, {"prompt": "a", "seeds": "no"}, {"prompt": None}]
)
def test_metadata_of_something_else(values):
    with pytest.raises(UserError):
        resolve(Request.from_dict(values), DEV, "dev")


@pytest.mark.parametrize("fields", [{"adapters": "whisper"}, {"seeds": 3}, {"seeds": ("3",)}, {"adapters": (1,)}])
def test_one_is_given_as_a_tuple_too(fields):
    with pytest.raises(UserError, match="Give a tuple"):
        Request("a", **fields)
    assert Request("a", seeds=[1, 2]).seeds == (1, 2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"retake": (0.5, 1.0)}, r"retake is \(0.5, 1.0\)"),
        ({"retake_what": None}, "retake_what is None"),
        ({"revoice": "0.7"}, "revoice is '0.7'"),
        ({"extend": "2"}, "extend is '2'"),
        ({"frames": 16.5}, "frames is 16.5"),
        ({"steps": True}, "steps is True"),
        ({"prompt": b"a"}, "prompt is b'a'"),
        ({"video_guidance": 3.0}, "video_guidance is 3.0"),
        ({"adapters": ("whisper", "")}, "One of adapters is empty"),
        ({"video": " "}, "video is empty"),
    ],
)
def test_a_value_of_another_kind_is_told(fields, words):
    with pytest.raises(UserError, match=words) as refused:
        Request(**{"prompt": "a", **fields})
    assert refused.value.hint


def test_numpys_numbers_are_numbers():
    request = Request("a", frames=np.int64(17), revoice=np.float32(0.5))
    assert json.dumps([request.frames, request.revoice]) == "[17, 0.5]"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("a", seeds=(-2,)), "-2 is no seed"),
        (Request("a", seeds=(1 << 64,)), "is no seed"),
        (Request("a", seeds=(3, 3)), "2 times"),
        (Request("a", seeds=tuple(range(20_000))), "too many"),
        (Request("a", steps=10**9), "steps"),
        (Request("a", frames=10**9), "frames"),
        (Request("a", frame_rate=float("nan")), "frame_rate"),
        (Request("a", audio_guidance=Guidance(cfg=float("nan"))), "audio guidance's cfg"),
        (Request("a", video_guidance=Guidance(rescale=float("inf"))), "video guidance's rescale"),
        (Request("a", audio_guidance=Guidance(rescale=-0.1)), "audio guidance's rescale is -0.1"),
        (Request("a", adapters=("whisper",), register_at="1-2=soft"), "does not begin at 0 s"),
    ],
)
def test_numbers_beyond_sense(request_, words):
    with pytest.raises(UserError, match=words):
        resolve(request_, DEV, "dev")


@pytest.mark.parametrize(
    ("field", "most"),
    [("width", 16384), ("height", 16384), ("frames", 65536), ("steps", 1000), ("frame_rate", 240.0)],
)
def test_numbers_are_bounded_where_the_message_says(field, most):
    assert getattr(resolve(Request("a", **{field: most}), DEV, "dev"), field) == most
    with pytest.raises(UserError, match=f"{field} is .* beyond any model") as refused:
        resolve(Request("a", **{field: most + 1}), DEV, "dev")
    assert f"up to {most:.0f}." in refused.value.hint


def test_a_random_seed_is_drawn_once_resolved():
    seeds = [resolve(Request("a", seeds=(-1, 5)), DEV, "dev").seeds for _ in range(2)]
    assert seeds[0][1] == seeds[1][1] == 5
    assert seeds[0][0] != seeds[1][0]
    assert resolve(Request("a", seeds=((1 << 64) - 1,)), DEV, "dev").seeds == ((1 << 64) - 1,)


def test_a_random_seed_of_a_take_is_drawn_once_resolved():
    """One that is told stays, and a take without a seed has the run's."""
    request = Request("a", takes=("manner=soft", "seed=7", "seed=-1"), adapters=("x",), seeds=(3,))
    plain, told, drawn = (read_take(take).seed for take in resolve(request, DEV, "dev").takes)
    assert (plain, told) == (None, 7)
    assert drawn is not None
    assert drawn >= 0
    assert read_take(resolve(request, DEV, "dev").takes[2]).seed != drawn


def test_the_lock_is_for_adapters_and_a_made_picture():
    adapted = Request("a", adapters=("x",))
    assert resolve(adapted, DEV, "dev").locked
    assert not resolve(Request("a"), DEV, "dev").locked
    assert not resolve(dataclasses.replace(adapted, audio_only=True), DEV, "dev").locked
    assert not resolve(dataclasses.replace(adapted, video="x.mp4"), DEV, "dev").locked
    assert not resolve(dataclasses.replace(adapted, lock_video=False), DEV, "dev").locked
