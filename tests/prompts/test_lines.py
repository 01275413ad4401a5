"""Lines that the built-in model was not taught, and the nearest of its own."""

import re
from pathlib import Path

import pytest

from mlx_ltxw.prompts.lines import check_lines, nearest
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
from scripts.voice_model.corpus import SENTENCES

LINES = ("close your eyes", "the cat is hiding behind the curtain", "look at the stars above the lake")


def codes(prompt):
    return [hint.code for hint in check_lines(prompt, LINES)]


@pytest.mark.parametrize(
    "prompt",
    [
        'a woman, (woman, whispering): "close your eyes"',
        'a woman, (woman): "Close your  eyes."',
        "a woman, (woman): “close your eyes!”",
        'a woman who says "close your eyes"',
        "a woman, (woman): close your eyes",
    ],
)
def test_own_lines_need_no_word(prompt):
    assert codes(prompt) == []


def test_another_line_is_told_with_the_nearest():
    (hint,) = check_lines('a man, (man): "the dog is hiding behind a curtain"', LINES)
    assert hint.code == "unknown-line"
    assert "none of the 3 lines" in hint.text
    assert '"the cat is hiding behind the curtain"' in hint.text


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ('a man says "stay here"', ["unknown-line"]),
        ("a forest in the rain", ["no-line"]),
        ('a man, (man): ""', ["no-line"]),
        ('two, (man): "close your eyes", (woman): "close your eyes"', ["one-line"]),
        ('two, (man): "no", (woman): "close your eyes"', ["unknown-line", "one-line"]),
    ],
)
def test_what_else_is_told(prompt, expected):
    assert codes(prompt) == expected


def test_the_nearest_shares_words_before_letters():
    assert nearest("stars above a lake", LINES) == LINES[2]
    assert nearest("close the eyes", LINES) == LINES[0]


def test_escapes_of_a_terminal_are_not_printed():
    (hint,) = check_lines('a man, (man): "\x1b[2Jhello"', LINES)
    assert "\x1b" not in hint.text


def test_the_model_that_ships_lists_its_lines():
    assert tuple(ModelDir.open(BUILTIN_MODEL).lines) == SENTENCES


def test_the_readmes_prompts_are_the_models_own():
    root = Path(__file__).parents[2]
    text = "".join((root / name).read_text(encoding="utf-8") for name in ("README.md", "docs/generate.md"))
    prompts = re.findall(r"generate\(?\s*'([^']+\"[^']*)'", text)
    assert len(prompts) >= 8
    assert [hint.text for prompt in prompts for hint in check_lines(prompt, SENTENCES)] == []
