"""The whisper adapter's prompt grammar: `a [scene], ([speaker], [manner]): "[line]"`.

The adapter was trained on captions of this form, eight voices, two registers each, one register a clip. What it makes
of a speaker and a manner (from its card):

| register | female | male |
|---|---|---|
| whispering | `(woman, whispering)` | `(man, whispering quietly)`; `(man, whispering)` alone gives soft-spoken |
| soft-spoken | `(woman, speaking softly)` | `(man, speaking softly)` |

Without a manner the clip comes out soft-spoken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mlx_ltxw.errors import UserError

Register = Literal["whispering", "soft", "normal"]

SPEAKERS = ("woman", "man")
MANNERS: dict[tuple[str, str], str] = {
    ("woman", "whispering"): "whispering",
    ("man", "whispering"): "whispering quietly",
    ("woman", "soft"): "speaking softly",
    ("man", "soft"): "speaking softly",
    ("woman", "normal"): "",
    ("man", "normal"): "",
}
"""(speaker, register) -> the words that ask for it."""

WORDS_PER_SECOND = 9300 / 3600
"""Speaking rate of audiobook narration: 9,300 words an hour (Audiobook Creation Exchange's estimate), 155 a minute."""

_QUOTES = '"“”„«»'
_CLOSING = {'"': '"“”', "“": '”"', "”": '”"', "„": "“”", "«": "»", "»": "«"}
_TURN = re.compile(
    r"[(（]\s*(?P<speaker>[^\s(),:（），：][^(),:（），：]*?)\s*(?:[,，]\s*(?P<manner>[^():（）：]*?)\s*)?[)）]\s*"
    rf"(?:(?P<colon>[:：])\s*|(?=[{_QUOTES}]))"
)
_SPEAKER_WORDS = {"woman", "man", "women", "men", "female", "male", "girl", "boy", "lady", "guy", "speaker", "narrator"}
_MANNER_WORDS = re.compile(r"\b(?:whisper\w*|speaking softly|softly|quietly|soft-spoken|hushed)\b")
_NO_ARTICLE = re.compile(r"(a|an|the|two|three|some|several|one|his|her|their|in|inside|on|at|under|by|near)\b", re.I)


@dataclass(frozen=True)
class Turn:
    """One speaker's line.

    Attributes:
        speaker: `woman`, `man` or what else was written, in lower case.
        manner: As written, in lower case; empty without one.
        line: What is said, without its quotes.
        quoted: Whether the line stood in quotes.
        mark: The brackets and the colon as written, without spaces after them.
        after: What follows the quoted line and is not said.
    """

    speaker: str
    manner: str
    line: str
    quoted: bool
    mark: str = ""
    after: str = ""

    @property
    def register(self) -> Register | None:
        """What the adapter makes of it; None for a manner it was never taught."""
        if "whisper" in self.manner:
            male = self.speaker.split()[-1] == "man"
            return "soft" if male and "quietly" not in self.manner else "whispering"
        if not self.manner or "soft" in self.manner:
            return "soft"
        return None

    @property
    def seconds(self) -> float:
        """How long the line takes to say. Counts words between spaces, so it says 0 for scripts without them."""
        words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", self.line)
        return len(words) / WORDS_PER_SECOND


@dataclass(frozen=True)
class Prompt:
    """A prompt taken apart.

    Attributes:
        scene: What stands before the first speaker, without the comma.
        turns: The speakers, in order; empty when the prompt does not follow the grammar.
    """

    scene: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Hint:
    """Something the user should know before the long run.

    Attributes:
        code: Stable name: `grammar`, `speaker`, `man-whispering`, `no-manner`, `unknown-manner`, `mixed-registers`,
            `quotes`, `slip`, `too-long`, `needs-adapter`.
        text: A sentence or two.
    """

    code: str
    text: str

    def __str__(self) -> str:
        return self.text


def parse(prompt: str) -> Prompt:
    """Takes a prompt apart; whatever follows no grammar is all scene.

    Brackets within a quoted line are the line's. A missing or full-width colon is forgiven (see `slips`).
    """
    marks = speaker_marks(prompt)
    if not marks:
        return Prompt(prompt.strip(), ())
    ends = [mark.start() for mark in marks[1:]] + [len(prompt)]
    turns = []
    for mark, end in zip(marks, ends, strict=True):
        text = prompt[mark.end() : end].strip().rstrip(",").rstrip()
        line, quoted, after = _line(text)
        turn = Turn(mark["speaker"].lower(), (mark["manner"] or "").lower(), line, quoted, mark[0].rstrip(), after)
        turns.append(turn)
    return Prompt(prompt[: marks[0].start()].strip().rstrip(",").rstrip(), tuple(turns))


def slips(prompt: Prompt) -> list[str]:
    """What is off in a prompt that is understood all the same: a sentence for each kind."""
    found = []
    for turn in prompt.turns:
        if not turn.mark.endswith(":"):
            what = "full-width" if turn.mark.endswith("：") else "missing"
            found.append(f'The colon after {_brackets(turn.mark)} is {what}; write {mend_mark(turn.mark)} "…".')
        elif mend_mark(turn.mark) != turn.mark:
            found.append(f"The brackets or comma of {turn.mark} are full-width; write {mend_mark(turn.mark)}")
        if turn.after:
            text = (
                f'Words follow the quoted line: "{_start(turn.after)}"; they are not said. Put them before the speaker.'
            )
            found.append(text)
        if not turn.manner and (manner := _MANNER_WORDS.search(turn.speaker)):
            found.append(_without_comma(turn, manner[0]))
    return list(dict.fromkeys(found))


def _without_comma(turn: Turn, manner: str) -> str:
    """What to say of `(woman whispering)` and of `(whispering)`: all of it passes for the speaker's name."""
    speaker = " ".join(turn.speaker.replace(manner, " ").split())
    mark = _brackets(turn.mark)
    if not speaker:
        return f"{mark} names a manner and no speaker; write (woman, {manner}): …"
    return f"{mark} has no comma before its manner; write ({speaker}, {manner}): …"


def mend(text: str) -> str:
    """A prompt with an ordinary colon after each speaker, and ordinary brackets and commas around it."""
    for mark in reversed(speaker_marks(text)):
        text = f"{text[: mark.start()]}{mend_mark(mark[0].rstrip())} {text[mark.end() :]}"
    return text


def mend_mark(mark: str) -> str:
    """`（woman，whispering）` -> `(woman, whispering):`."""
    inner = re.sub(r"\s*，\s*", ", ", _brackets(mark).strip("()（）").strip())
    return f"({inner}):"


def _brackets(mark: str) -> str:
    """A mark without its colon, before which there may be white space of any kind."""
    return mark.rstrip().rstrip(":：").rstrip()


def speaker_marks(prompt: str) -> list[re.Match[str]]:
    """Where speakers stand: outside of quoted lines, and without a colon only before a quote and if it is a speaker."""
    found: list[re.Match[str]] = []
    at = 0
    while mark := _TURN.search(prompt, at):
        named = mark["manner"] is not None or mark["speaker"].lower().split()[-1] in _SPEAKER_WORDS
        if not (mark["colon"] or named):
            at = mark.end()
            continue
        found.append(mark)
        at = mark.end()
        closing = _CLOSING.get(prompt[at : at + 1], "")
        ends = [end for end in (prompt.find(quote, at + 1) for quote in closing) if end >= 0]
        at = min(ends, default=at)
    return found


def _line(text: str) -> tuple[str, bool, str]:
    """What follows a speaker -> the line without its quotes, whether it had any, and what follows them."""
    body = text.rstrip(".!?… ")
    if len(body) > 1 and body[0] in _QUOTES and body[-1] in _QUOTES:
        return body[1:-1].strip(), True, ""
    last = max((text.rfind(quote) for quote in _CLOSING.get(text[:1], "")), default=-1)
    if last > 0:
        return text[1:last].strip(), True, text[last + 1 :].strip(" ,.")
    return text.strip(_QUOTES).strip(), False, ""


def _start(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"


def build_prompt(scene: str, speaker: str, manner: str, line: str) -> str:
    """The sentence that asks for a register in the adapter's own words.

    Args:
        scene: With or without its article: `woman in dim light`.
        speaker: `woman` or `man`.
        manner: `whispering`, `soft` or `normal`.
        line: What is said, with or without quotes.

    Raises:
        UserError: an unknown speaker or manner, an empty scene or line, or a quote inside the line.
    """
    scene, line = scene.strip().rstrip(",."), line.strip().strip(_QUOTES).strip()
    if (speaker, manner) not in MANNERS:
        raise UserError(
            f"There is no speaker '{speaker}' with the manner '{manner}'.",
            "The speaker is woman or man, the manner whispering, soft or normal.",
        )
    if not scene or not line:
        raise UserError(f"The {'line' if scene else 'scene'} is empty.", "Give both.")
    if any(quote in line for quote in _QUOTES):
        raise UserError("The line has a quote inside.", "Use single quotes within what is said.")
    if not _NO_ARTICLE.match(scene):
        scene = f"{'an' if scene[0].lower() in 'aeiou' else 'a'} {scene}"
    words = MANNERS[speaker, manner]
    return f'{scene}, ({speaker}{", " + words if words else ""}): "{line}"'


def check_prompt(prompt: str, seconds: float, adapter: bool = True) -> list[Hint]:
    """What a prompt will do, told before the long run.

    Args:
        prompt: The whole prompt.
        seconds: The clip's length.
        adapter: Whether the whisper adapter is in use.

    Returns:
        Hints, empty when there is nothing to say.
    """
    turns = parse(prompt).turns
    if not turns:
        if not adapter:
            return []
        text = (
            'No speaker found; the adapter was taught prompts like: a dim room, (woman, whispering): "close your eyes".'
        )
        return [Hint("grammar", text)]
    hints = [hint for turn in turns for hint in (_register_hints(turn) if adapter else _bare_hints(turn))]
    registers = {turn.register for turn in turns} - {None}
    if adapter and len(registers) > 1:
        text = "Two registers in one clip come out as one; make them as parts of a {field:script}."
        hints.append(Hint("mixed-registers", text))
    hints += [_quotes_hint(turn) for turn in turns if not turn.quoted]
    hints += [Hint("slip", text) for text in slips(Prompt("", turns))]
    needed = sum(turn.seconds for turn in turns)
    if needed > seconds:
        text = (
            f"The words need about {needed:.1f} s at {60 * WORDS_PER_SECOND:.0f} words a minute, the clip has "
            f"{seconds:.1f} s; speech will be hurried or cut off."
        )
        hints.append(Hint("too-long", text))
    return list(dict.fromkeys(hints))


def _register_hints(turn: Turn) -> list[Hint]:
    hints = []
    if turn.speaker not in SPEAKERS:
        hints.append(Hint("speaker", f"The adapter knows the speakers 'woman' and 'man', not '{turn.speaker}'."))
    if not turn.manner:
        text = "Without a manner the adapter makes the clip soft-spoken; for a normal voice leave the adapter out."
        hints.append(Hint("no-manner", text))
    elif turn.register is None:
        text = f"The adapter was not taught the manner '{turn.manner}' and will likely make it soft-spoken."
        hints.append(Hint("unknown-manner", text))
    elif "whisper" in turn.manner and turn.register == "soft":
        text = f"'(man, {turn.manner})' gives a soft-spoken man; write '(man, whispering quietly)' for a whisper."
        hints.append(Hint("man-whispering", text))
    return hints


def _bare_hints(turn: Turn) -> list[Hint]:
    if "whisper" in turn.manner or "soft" in turn.manner:
        text = f"LTX-2.3 alone cannot speak in the manner '{turn.manner}'; add {{field:adapters}}."
        return [Hint("needs-adapter", text)]
    return []


def _quotes_hint(turn: Turn) -> Hint:
    start = " ".join(turn.line.split()[:4])
    return Hint("quotes", f'Put what is said in double quotes, or it may be taken for description: "{start} …".')
