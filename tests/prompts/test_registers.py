"""The prompt grammar, by the adapter card's own table and worked examples."""

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.prompts.registers import Prompt, build_prompt, check_prompt, mend, parse

CARD = 'a woman in dim light, (woman, whispering): "close your eyes"'


@pytest.mark.parametrize(
    ("prompt", "register"),
    [
        ('a room, (woman, whispering): "x"', "whispering"),
        ('a room, (man, whispering quietly): "x"', "whispering"),
        ('a room, (man, whispering): "x"', "soft"),
        ('a room, (woman, speaking softly): "x"', "soft"),
        ('a room, (man, speaking softly): "x"', "soft"),
        ('a room, (man): "x"', "soft"),
        ('a room, (woman, shouting): "x"', None),
    ],
)
def test_the_cards_table(prompt, register):
    (turn,) = parse(prompt).turns
    assert turn.register == register


@pytest.mark.parametrize("speaker", ["woman", "man"])
@pytest.mark.parametrize("manner", ["whispering", "soft"])
def test_built_prompts_ask_for_their_register_and_need_no_hint(speaker, manner):
    prompt = build_prompt("quiet bedroom at night", speaker, manner, "close your eyes")
    (turn,) = parse(prompt).turns
    assert turn.register == manner
    assert check_prompt(prompt, 4.0) == []


@pytest.mark.parametrize(
    ("said", "line", "quoted"), [("", "", False), ('"', "", False), ('""', "", True), ("hm", "hm", False)]
)
def test_a_speaker_who_says_next_to_nothing(said, line, quoted):
    (turn,) = parse(f"a room, (woman, whispering): {said}").turns
    assert (turn.line, turn.quoted, turn.manner) == (line, quoted, "whispering")


@pytest.mark.parametrize("text", ["( ):", '( ): "a"', "(  , whispering): hi", "(\u3000):x", "(\n):"])
def test_brackets_without_anybody_are_scene(text):
    assert parse(text) == Prompt(text, ())


def test_built_words():
    assert build_prompt("woman in dim light", "woman", "whispering", "close your eyes") == CARD
    assert build_prompt("a man", "man", "whispering", '"now"') == 'a man, (man, whispering quietly): "now"'
    assert build_prompt("old barn", "man", "soft", "hello") == 'an old barn, (man, speaking softly): "hello"'
    assert build_prompt("In a car,", "woman", "normal", "hi") == 'In a car, (woman): "hi"'


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("a", "child", "soft", "x"), "no speaker 'child'"),
        (("a", "man", "shouting", "x"), "manner 'shouting'"),
        ((" ", "man", "soft", "x"), "scene is empty"),
        (("a", "man", "soft", '""'), "line is empty"),
        (("a", "man", "soft", 'say "no" now'), "quote inside"),
    ],
)
def test_what_cannot_be_built(given, words):
    with pytest.raises(UserError, match=words):
        build_prompt(*given)


def test_parts_of_a_prompt():
    prompt = parse('a dim room, rain outside, (Woman, Whispering): “stay, with me”, (man, speaking softly): "I will."')
    assert prompt.scene == "a dim room, rain outside"
    first, second = prompt.turns
    assert (first.speaker, first.manner, first.line, first.quoted) == ("woman", "whispering", "stay, with me", True)
    assert (second.speaker, second.manner, second.line) == ("man", "speaking softly", "I will.")
    assert parse("a river at dawn (wide shot)").turns == ()


def codes(prompt, seconds=4.0, adapter=True):
    return [hint.code for hint in check_prompt(prompt, seconds, adapter)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (CARD, []),
        ('a room, (man, whispering): "stay"', ["man-whispering"]),
        ('a room, (man, whispering softly): "stay"', ["man-whispering"]),
        ('a room, (man): "stay"', ["no-manner"]),
        ('a room, (woman, yelling): "stay"', ["unknown-manner"]),
        ('a room, (girl, whispering): "stay"', ["speaker"]),
        ("a room, (woman, whispering): stay here", ["quotes"]),
        ('a room, (woman, whispering): "stay here', ["quotes"]),
        ("a woman whispers in the dark", ["grammar"]),
        ('a room, (woman, whispering): "yes", (man, speaking softly): "no"', ["mixed-registers"]),
        ('a room, (woman, whispering): "yes", (man, whispering quietly): "no"', []),
    ],
)
def test_hints(prompt, expected):
    assert codes(prompt) == expected


def test_length_by_hand():
    """155 words a minute: 4.04 s hold 10 words (3.87 s), and 11 words need 4.26 s."""

    def line(count):
        return f'a room, (woman, whispering): "{" ".join(["word"] * count)}"'

    assert codes(line(10), 97 / 24) == []
    assert codes(line(11), 97 / 24) == ["too-long"]
    assert "about 4.3 s at 155 words a minute, the clip has 4.0 s" in str(check_prompt(line(11), 97 / 24)[0])
    two = 'a room, (woman, whispering): "one two three", (woman, whispering): "four five six"'
    assert codes(two, 2.0) == ["too-long"]
    assert parse('(man): "don’t well-known O\'Neill 42"').turns[0].seconds == pytest.approx(4 * 60 / 155)


def test_without_the_adapter():
    assert codes("a river", adapter=False) == []
    assert codes('a room, (man): "stay"', adapter=False) == []
    assert codes(CARD, adapter=False) == ["needs-adapter"]


@pytest.mark.parametrize(
    ("written", "mended"),
    [
        ('a room, (woman, whispering): "hi"', 'a room, (woman, whispering): "hi"'),
        ('a room, （woman，whispering）："hi"', 'a room, (woman, whispering): "hi"'),
        ('a room, (woman, whispering) "hi", （man）： "no"', 'a room, (woman, whispering): "hi", (man): "no"'),
        ('a room, (woman)\n: "hi"', 'a room, (woman): "hi"'),
        ('a room, (woman, whispering)\u2028："hi"', 'a room, (woman, whispering): "hi"'),
    ],
)  # fmt: skip
def test_mended_marks_keep_their_manner(written, mended):
    assert mend(written) == mended
