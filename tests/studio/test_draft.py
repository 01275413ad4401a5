"""What is filled in, and the request that it stands for: each made of the other again."""

import dataclasses
from types import SimpleNamespace

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.guidance import NO_GUIDANCE, Guidance
from mlx_ltxw.pipeline.request import RANDOM, Request
from mlx_ltxw.pipeline.resolve import resolve
from mlx_ltxw.studio.asked import Asked
from mlx_ltxw.studio.draft import FREE, SCRIPT, Draft, DraftAdapter, DraftPart, ModelFacts, draft_of
from mlx_ltxw.studio.wording import worded
from tests.studio.test_spelled import REQUESTS

FACTS = ModelFacts(
    "m", (), "dev", 768, 512, 121, 24.0, 30, 8, (), (), ("whisper",), (), Guidance(3.0), Guidance(7.0)
)  # fmt: skip
PROMPT = 'a woman in dim light, (woman, whispering): "close your eyes"'


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_record_opened_and_left_alone_asks_for_the_same(request_):
    made = draft_of([request_], "m")
    assert Draft.read(made.as_dict()) == made
    asked = made.asked(FACTS)
    assert asked == Asked(request_, "m")


def test_of_settings_too():
    """As files keep them: every choice made."""
    from mlx_ltxw.pipeline.request import Defaults

    settings = resolve(Request(PROMPT, adapters=("whisper:0.8",), frames=25), Defaults(), "dev")
    request = Request.from_dict(settings.to_dict())
    made = draft_of([request], None)
    assert (made.scene, made.speaker, made.manner, made.line) == (
        "a woman in dim light", "woman", "whispering", "close your eyes",
    )  # fmt: skip
    assert made.adapters == [DraftAdapter("whisper", "0.8")]
    assert made.asked(FACTS).request == request


def test_one_change_changes_one_thing():
    request = Request(PROMPT, frames=25, frame_rate=25.0, video_guidance=Guidance(4.0, stg_blocks=(3,)), seeds=(5,))
    made = draft_of([request], None)
    made.video_guidance["stg"] = 0.5
    assert made.asked(FACTS).request == dataclasses.replace(
        request, video_guidance=Guidance(4.0, stg=0.5, stg_blocks=(3,))
    )
    made.seed = None
    assert made.asked(FACTS).request.seeds == (RANDOM,)
    made.seconds = 2.0
    assert made.asked(FACTS).request.frames == 49  # 1 + 8 k nearest to 2 s at 25
    made.seed, made.clips = 7, 3
    assert made.asked(FACTS).request.seeds == (7, 8, 9)


def test_what_is_left_empty_is_the_models_own():
    asked = Draft(scene="a room", line="hello").asked(FACTS, "own/model")
    assert asked == Asked(Request('a room, (woman, whispering): "hello"', seeds=(RANDOM,)), "own/model")
    one = Draft(scene="a room", line="hello")
    one.audio_guidance["cfg"] = 2.0
    assert one.asked(FACTS).request.audio_guidance == Guidance(2.0)
    assert NO_GUIDANCE not in (one.asked(FACTS).request.audio_guidance,)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"line": 'a "quote" in it'}, "quote inside"), ({"seconds": -1.0}, "cannot be made"), ({"clips": 65}, "65 clips"),
     ({"line": " "}, "nothing to say"), ({"takes": "loudly"}, "no manner"),
     ({"mode": SCRIPT}, "no line yet")],
)  # fmt: skip
def test_what_cannot_be_is_told(change, reason):
    with pytest.raises(UserError, match=reason):
        dataclasses.replace(Draft(scene="a room", line="hello"), **change).asked(FACTS)


def test_a_script_comes_back_in_its_parts():
    draft = Draft(mode=SCRIPT, adapters=[DraftAdapter("whisper")], seed=3)
    draft.parts = [
        DraftPart("a room", "man", "whispering", "one", 1.0, 7), DraftPart("a room", "woman", "normal", "two"),
        DraftPart("left out"),
    ]  # fmt: skip
    asked = draft.asked(FACTS)
    prompts = [part.part.prompt for part in asked.parts]
    assert prompts == ['a room, (man, whispering quietly): "one"', 'a room, (woman): "two"']
    assert [part.part.normal for part in asked.parts] == [False, True]
    made = [Request(prompts[0], adapters=("whisper",), seeds=(7,), frames=25, frame_rate=24.0), Request(prompts[1])]
    back = draft_of(made, None)
    assert [(part.speaker, part.manner, part.line, part.seed) for part in back.parts] == [
        ("man", "whispering", "one", 7), ("woman", "normal", "two", 10),
    ]  # fmt: skip
    assert back.adapters == [DraftAdapter("whisper")]


def test_sentences_name_what_the_page_has():
    assert worded("Give it together with {field:lock_video=False}.") == "Give it together with “Lips follow”."
    assert worded("Give {field:frames} up to 9.") == "Give “Seconds” up to 9."
    assert worded("as parts of a {field:script}") == "as parts of a “Script”"
    assert worded("{field:some_other=3}") == "“some other” 3"


def test_no_hints_of_speech_where_the_sound_is_given():
    """An adapter that they would ask for is refused there."""
    pytest.importorskip("nicegui")
    from mlx_ltxw.studio.pages.words import hints_of

    draft = Draft(mode=FREE, prompt='a room, (woman, whispering): "hush"')
    form = SimpleNamespace(draft=draft, facts=None)
    assert any("adapter" in hint.lower() for hint in hints_of(form))
    draft.audio = "line.wav"
    assert hints_of(form) == []
    draft.revoice = 0.7
    assert hints_of(form)
