"""Captions: whole, from parts, and from folders' names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_ltxw.prompts.registers import parse
from mlx_ltxw.train.data.captions import (
    CaptionFault,
    Labels,
    asked_register,
    complete,
    compose,
    from_folders,
    retell,
    spoken,
)
from tests.properties import examples

WOMAN = Labels("woman", "whispering")


@pytest.mark.parametrize(
    ("folders", "speaker", "manner", "voice"),
    [
        (["woman-whispering"], "woman", "whispering", None),
        (["man_soft"], "man", "soft", None),
        (["Female Whispers"], "woman", "whispering", None),
        (["anna-woman-speaking-softly"], "woman", "soft", "anna"),
        (["anna", "whispering"], None, "whispering", "anna"),
        (["woman", "man-normal"], "man", "normal", None),  # the inner folder wins
        (["woman1_whispered"], "woman", "whispering", "woman1"),
        (["woman2_whispered"], "woman", "whispering", "woman2"),
        (["clips", "2024-05-01"], None, None, None),
        (["humanity"], None, None, "humanity"),  # no man in it
    ],
)
def test_folders(folders, speaker, manner, voice):
    assert from_folders(folders) == Labels(speaker, manner, None, voice)


@pytest.mark.parametrize(
    ("text", "labels", "caption"),
    [
        ("close your eyes", WOMAN, '(woman, whispering): "close your eyes"'),
        ('"close your eyes"\n', WOMAN, '(woman, whispering): "close your eyes"'),
        ("close  your\teyes", Labels("man", "whispering"), '(man, whispering quietly): "close your eyes"'),
        ("close", Labels("man", "soft"), '(man, speaking softly): "close"'),
        ("close", Labels("woman", "normal"), '(woman): "close"'),
        ("close", Labels("woman"), '(woman): "close"'),
        ("close", Labels("old man", "whispering"), '(old man, whispering quietly): "close"'),
        ("close", Labels("woman", "singing"), '(woman, singing): "close"'),
        ("close", Labels("woman", "soft", "a dim room,"), 'a dim room, (woman, speaking softly): "close"'),
        ('(man, softly): "hi"', WOMAN, '(man, softly): "hi"'),
        ('(man, softly): "hi"', Labels(scene="a room"), 'a room, (man, softly): "hi"'),
        ('a cellar, (man, softly): "hi"', Labels(scene="a room"), 'a cellar, (man, softly): "hi"'),
        ("\ufeffcafe\u0301", WOMAN, '(woman, whispering): "caf\u00e9"'),
    ],
)
def test_complete(text, labels, caption):
    assert complete(text, labels) == caption


@pytest.mark.parametrize(
    "text",
    [
        'woman whispering: "close"',
        "(woman, whispering) close",
        '(woman): ""',
        "(woman, soft):",
        "",
        '""',
        "\ud800",
        "a" * 5000,
    ],
)
def test_faults(text):
    with pytest.raises(CaptionFault):
        complete(text, WOMAN)


def test_a_transcript_without_speaker_is_a_fault():
    with pytest.raises(CaptionFault, match="woman-whispering"):
        complete("close your eyes", Labels(manner="whispering"))


def test_retell():
    caption = 'a dim room, (woman, whispering quietly): "close your eyes and sleep"'
    assert retell(caption, "close your eyes") == 'a dim room, (woman, whispering quietly): "close your eyes"'
    with pytest.raises(CaptionFault, match="several speakers"):
        retell('(woman): "a", (man): "b"', "a")


def test_spoken_takes_out_what_is_no_speech():
    assert spoken(' [music] "Close" your eyes (laughs) ') == "'Close' your eyes"
    assert spoken("(sighs)") == ""
    assert compose(spoken('He said "go".'), WOMAN) == "(woman, whispering): \"He said 'go'.\""


@pytest.mark.parametrize(
    ("manner", "register"),
    [
        ("whispering quietly", "whispering"), ("whispering", "whispering"), ("speaking softly", "soft"),
        ("softly", "soft"), ("", "normal"), ("speaking", "normal"), ("speaking normally", "normal"), ("singing", None),
    ],
)  # fmt: skip
def test_asked_register(manner, register):
    (turn,) = parse(f'(man, {manner}): "x"' if manner else '(man): "x"').turns
    assert asked_register(turn) == register


pieces = st.sampled_from(
    ["(woman, whispering)", "(", ")", ":", '"', "“", ",", " ", "\n", "\0", "man", "\u2028", "é", "close"]
)


@examples(300)
@given(st.one_of(st.lists(pieces, max_size=12).map("".join), st.text(max_size=60)), st.booleans())
def test_any_text_is_a_caption_or_a_fault(text, known):
    try:
        caption = complete(text, WOMAN if known else Labels())
    except CaptionFault:
        return
    assert caption == " ".join(caption.split())
    assert caption.encode("utf-8")
    turns = parse(caption).turns
    assert turns
    assert all(turn.line for turn in turns)
