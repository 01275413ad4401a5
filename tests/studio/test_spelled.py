"""A request as a command line and as Python: each, read again, is the same request."""

import dataclasses
import inspect
import json
import sys
import types

import pytest

from mlx_ltxw import api
from mlx_ltxw.cli.generate import _given, _with_guidance, generate
from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.guidance import DEV_AUDIO, DEV_VIDEO, Guidance
from mlx_ltxw.pipeline.request import Defaults, Request
from mlx_ltxw.prompts.script import read_script
from mlx_ltxw.studio import spelled
from mlx_ltxw.studio.asked import Asked, AskedPart
from mlx_ltxw.studio.spelled import command_of, python_of, script_of

PROMPT = "a room, (woman, whispering): \"it's -- 'so' $HOME `x`\""
REQUESTS = [
    Request(PROMPT),
    Request("--no-lock-video", seeds=(3, 4), width=128, height=64, frames=25, frame_rate=23.976023976023978, steps=4),
    Request(PROMPT, adapters=("whisper:0.8", "own/repo:audio_attn1=1,audio_attn2=0.5"), lock_video=False, fuse=True,
            allow_partial=True, register_at="0-2=whispering,2-4=normal"),
    Request(PROMPT, images=("a.png@last:0.5", "b c.png"), takes=("manner=soft seed=3", "adapter=none seed=+2")),
    Request(PROMPT, video="in.mp4", retake="1.2-2.4", retake_what="sound", soften_onset=False, remove_offset=False),
    Request(PROMPT, video="in.mp4", extend=-1.5, dtype="float32", seeds=(2**64 - 1,)),
    Request(PROMPT, audio="in.wav", revoice=0.65, audio_only=False, negative_prompt=""),
    Request(PROMPT, audio_only=True, pipeline="one-stage", distilled_lora="lora.safetensors:0.9"),
    Request(PROMPT, pipeline="two-stage", upsampler="spatial-x1.5"),
    Request(PROMPT, video_guidance=DEV_VIDEO, audio_guidance=DEV_AUDIO),
    Request(PROMPT, video_guidance=Guidance(4.0, 0.5, 2.0, 0.1, (28,)),
            audio_guidance=Guidance(6.5, 0.5, 2.0, 0.1, (28,))),
]  # fmt: skip


class Model:
    """Takes the place of an opened model where defaults are asked for."""

    variant, generation, upsamplers = "dev", None, ()


def test_no_field_of_a_request_is_left_unsaid():
    said = {*spelled._VALUES, *spelled._LISTS, *(name for name, _ in spelled._SWITCHES), "prompt", "retake_what"}
    assert said | {"video_guidance", "audio_guidance"} == {one.name for one in dataclasses.fields(Request)}
    assert said - {*spelled._LISTS, "prompt"} == {*spelled._PYTHON}


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_command_makes_the_request(request_):
    words = command_of(Asked(request_, "some/model", "enc", 12_000_000_000), "out.mp4", Defaults())
    assert words[:2] == ["mlx-ltxw", "generate"]
    params = generate.make_context("generate", words[2:]).params
    assert (params["model"], params["text_encoder"], str(params["output"])) == ("some/model", "enc", "out.mp4")
    assert params["memory"] == 12_000_000_000
    names = inspect.signature(generate.callback).parameters
    given = _given({name: value for name, value in params.items() if name not in names})
    guidance = given.pop("guidance")
    made = _with_guidance(Request(**given), guidance, Model())
    wanted = request_
    for name, own in (("video_guidance", DEV_VIDEO), ("audio_guidance", DEV_AUDIO)):
        assert (getattr(made, name) or own) == (getattr(wanted, name) or own)
    plain = {"video_guidance": None, "audio_guidance": None}
    assert vars(made) | plain == vars(wanted) | plain


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_python_makes_the_request(request_, monkeypatch):
    asked: list = []
    saved: list = []

    class Loaded(api.Model):
        def __init__(self, *given, **options):
            asked.append((given, options))

        def clips(self, request):
            asked.append(request)
            count = len(request.seeds) * (len(request.takes) or 1)
            return [types.SimpleNamespace(save=saved.append) for _ in range(count)]

    stand_in = types.ModuleType("mlx_ltxw")
    stand_in.load, stand_in.Guidance = Loaded, Guidance
    monkeypatch.setitem(sys.modules, "mlx_ltxw", stand_in)
    exec(compile(python_of(Asked(request_, "m", None, 7), "it's {one}.mp4"), "exported", "exec"), {})
    assert asked == [(("m",), {"memory": 7}), request_]
    assert len(set(saved)) == len(request_.seeds) * (len(request_.takes) or 1)
    assert all(name.startswith("it's {one}") and name.endswith(".mp4") for name in saved)


def test_guidance_that_no_flag_says_is_refused():
    for own in (Guidance(3.0, 1.0, 3.0, 0.7, (1,)), Guidance(3.0, 0.2, 3.0, 0.7, (28,))):
        asked = Asked(Request(PROMPT, video_guidance=own))
        with pytest.raises(UserError, match="Python"):
            command_of(asked, "out.mp4", Defaults())


def test_a_script_is_read_as_it_was_asked_for(tmp_path):
    parts = (
        AskedPart("a woman in dim light", "woman", "whispering", "close your eyes", 2.5, 7),
        AskedPart('a "room"', "man", "normal", "back to <b>now</b>", None, None, ("own.safetensors",)),
        AskedPart("a room", "man", "normal", "plain", None, None, ()),
    )
    asked = Asked(Request("", adapters=("whisper",)), parts=parts)
    (tmp_path / "script.json").write_text(script_of(asked))
    assert read_script(tmp_path / "script.json") == [part.part for part in parts]
    words = command_of(asked, "out.mp4", Defaults())
    assert words[words.index("--script") + 1] == "script.json"
    assert "--" not in words
    assert json.loads(script_of(asked))[0]["line"] == "close your eyes"
    with pytest.raises(UserError, match="command line"):
        python_of(asked, "out.mp4")
