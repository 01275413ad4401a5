"""The same prompt in another manner, in the words of the adapter card's table."""

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.prompts.manner import with_manner


@pytest.mark.parametrize(
    ("manner", "woman", "man"),
    [
        ("whispering", "(woman, whispering)", "(old man, whispering quietly)"),
        ("soft", "(woman, speaking softly)", "(old man, speaking softly)"),
        ("normal", "(woman)", "(old man)"),
    ],
)
def test_every_speaker_gets_the_words_that_fit(manner, woman, man):
    prompt = 'a room, (woman, shouting): "yes", (old man) "no"'
    assert with_manner(prompt, manner) == f'a room, {woman}: "yes", {man}: "no"'


def test_what_has_no_manner():
    with pytest.raises(UserError, match="no manner 'loud'"):
        with_manner('a room, (woman): "yes"', "loud")
    with pytest.raises(UserError, match="names no speaker"):
        with_manner("a river", "soft")
