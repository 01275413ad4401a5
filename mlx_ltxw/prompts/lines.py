"""What a small model can say: the lines it has learned, and which of them is nearest to another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from mlx_ltxw.printing import printable
from mlx_ltxw.prompts.registers import Hint, parse

_QUOTED = re.compile(r'["“„«]([^"“”„«»]+)["”“»]')
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def check_lines(prompt: str, lines: Sequence[str]) -> list[Hint]:
    """Says when a prompt has a line that the model was not taught.

    Args:
        prompt: The whole prompt.
        lines: All that the model can say.

    Returns:
        Hints `unknown-line`, `no-line` and `one-line`; empty when the prompt has exactly one line, of the model's own.
    """
    turns = parse(prompt).turns
    said = [turn.line for turn in turns] or _QUOTED.findall(prompt)
    if not any(_WORD.search(line) for line in said):
        return [Hint("no-line", f"The prompt has no line in quotes; this model says one of its {len(lines)} anyway.")]
    own = {_plain(line) for line in lines}
    hints = [_unknown(line, lines) for line in said if _plain(line) not in own]
    if len(said) > 1:
        hints.append(Hint("one-line", "This model says one line a clip; make each a part of a {field:script}."))
    return list(dict.fromkeys(hints))


def nearest(line: str, lines: Sequence[str]) -> str:
    """The one of `lines` that has most words and letters in common with a line."""

    plain = _plain(line)

    def likeness(other: str) -> float:
        words = SequenceMatcher(None, plain.split(), _plain(other).split(), autojunk=False).ratio()
        return words + SequenceMatcher(None, plain, _plain(other), autojunk=False).ratio()

    return max(lines, key=likeness)


def _unknown(line: str, lines: Sequence[str]) -> Hint:
    short = line if len(line) <= 80 else f"{line[:77]}…"
    text = (
        f'"{printable(short)}" is none of the {len(lines)} lines this model knows; it will say one of them, or a '
        f'blend. The nearest is "{nearest(line[:200], lines)}".'
    )
    return Hint("unknown-line", text)


def _plain(line: str) -> str:
    """Words alone: case, punctuation and spaces make no difference."""
    return " ".join(_WORD.findall(line.lower().replace("’", "'")))
