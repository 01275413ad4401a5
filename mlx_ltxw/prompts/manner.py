"""The same prompt in another manner."""

from __future__ import annotations

from mlx_ltxw.errors import UserError
from mlx_ltxw.prompts.registers import MANNERS, speaker_marks

REGISTERS = ("whispering", "soft", "normal")
"""Manners that `MANNERS` has words for."""

_MALE = {"man", "men", "male", "boy", "boys", "guy", "guys"}


def with_manner(prompt: str, manner: str) -> str:
    """A prompt with each of its speakers in another manner, in the words that ask for it; all else stays as written.

    Args:
        prompt: In the grammar; speakers who are neither woman nor man get the words that fit their last word.
        manner: `whispering`, `soft` or `normal`.

    Raises:
        UserError: no such manner, or the prompt has no speaker.
    """
    if manner not in REGISTERS:
        raise UserError(f"There is no manner '{manner}'.", f"There are {', '.join(REGISTERS)}.")
    marks = speaker_marks(prompt)
    if not marks:
        raise UserError(
            "The prompt names no speaker whose manner could be changed.",
            'Write it as: a dim room, (woman, whispering): "close your eyes".',
        )
    for mark in reversed(marks):
        speaker = mark["speaker"]
        words = MANNERS["man" if speaker.lower().split()[-1] in _MALE else "woman", manner]
        turn = f"({speaker}{', ' + words if words else ''}): "
        prompt = prompt[: mark.start()] + turn + prompt[mark.end() :]
    return prompt
