"""Captions of training clips: `[scene], ([speaker], [manner]): "[line]"`, whole or put together from parts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from mlx_ltxw.prompts.registers import MANNERS, Register, Turn, mend, parse

LONGEST = 4000
"""Characters; the text encoder reads 1024 tokens, which no caption of a clip of seconds comes near."""

_SPEAKERS: dict[str, tuple[str, ...]] = {
    "woman": ("woman", "women", "female", "girl", "lady"),
    "man": ("man", "men", "male", "boy", "guy"),
}
_MANNERS: dict[str, tuple[str, ...]] = {
    "whispering": ("whisper", "whispers", "whispering", "whispered"),
    "soft": ("soft", "softly", "softspoken", "quiet", "quietly"),
    "normal": ("normal", "normally", "neutral", "plain"),
}
_NO_NAMES = {"a", "the", "and", "speaking", "spoken", "speech", "talking", "voice", "speaker", "clips", "data", "train",
             "audio", "video", "wav", "mp"}  # fmt: skip
_OUTER_QUOTES = '"“”„«»'
_REMAINS = re.compile(r'["“”„«»]')


class CaptionFault(Exception):
    """A caption that cannot be trained on; the text is a sentence or two for the user."""


@dataclass(frozen=True)
class Labels:
    """What is known of a clip beside its words.

    Attributes:
        speaker: As captions write it, such as `woman`.
        manner: A register (`whispering`, `soft`, `normal`), or words of the user's own.
        scene: What is seen.
        voice: Whose voice it is; counts voices, and is no part of the caption.
    """

    speaker: str | None = None
    manner: str | None = None
    scene: str | None = None
    voice: str | None = None

    def over(self, other: Labels) -> Labels:
        """These, and the other's where these say nothing."""
        return Labels(
            **{
                name: other_value if (value := getattr(self, name)) is None else value
                for name, other_value in vars(other).items()
            }
        )


def from_folders(folders: Iterable[str]) -> Labels:
    """Reads `woman-whispering`, `anna_man1_soft` and the like; inner folders come last and win.

    Words that are neither speaker nor manner are taken for the voice's name.
    """
    speaker = manner = None
    names: list[str] = []
    for folder in folders:
        for word in re.findall(r"[^\W\d_]+\d*", folder.lower()):
            bare = word.rstrip("0123456789")
            found_speaker = _find(bare, _SPEAKERS)
            found_manner = _find(bare, _MANNERS)
            speaker, manner = found_speaker or speaker, found_manner or manner
            if (found_speaker and word != bare) or not (found_speaker or found_manner or bare in _NO_NAMES):
                names.append(word)
    return Labels(speaker, manner, None, "-".join(names) or None)


def clean(text: str) -> str:
    """One line without control characters, composed (Unicode NFC).

    Raises:
        CaptionFault: it is no text that UTF-8 can hold, or far too long.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise CaptionFault("The caption is not valid text; save it as UTF-8.") from None
    text = unicodedata.normalize("NFC", text.removeprefix("\ufeff"))
    text = " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text).split())
    if len(text) > LONGEST:
        raise CaptionFault(f"The caption has {len(text):,} characters; describe a few seconds in fewer than {LONGEST}.")
    return text


def compose(line: str, labels: Labels) -> str:
    """A caption from its parts; unlike a prompt it needs no scene.

    Raises:
        CaptionFault: no speaker is known, or the line is empty or has quotes or brackets inside.
    """
    written = clean(line)
    line = written.strip(_OUTER_QUOTES).strip()
    if not line:
        raise CaptionFault("The caption says nothing; write what is said in the clip.")
    if labels.speaker is None:
        raise CaptionFault(
            'It is not known who speaks; write (woman, whispering): "…" in the caption, name the folder '
            "woman-whispering, or give {field:speaker} and {field:manner}."
        )
    if _REMAINS.search(line) or any(_names_speaker(group) for group in re.findall(r"[(（]([^()（）]*)", line)):
        raise CaptionFault(
            f'The caption does not parse; write it as (woman, whispering): "…", not as {_start(written)}'
        )
    manner = manner_words(labels.speaker, labels.manner)
    scene = f"{labels.scene.strip().rstrip(',.')}, " if labels.scene and labels.scene.strip() else ""
    return f'{scene}({labels.speaker}{", " + manner if manner else ""}): "{line}"'


def complete(text: str, labels: Labels) -> str:
    """The caption that a text stands for: itself if it follows the grammar, else it is what is said.

    Raises:
        CaptionFault: it is neither.
    """
    text = clean(text)
    prompt = parse(text)
    if not prompt.turns:
        return compose(text, labels)
    if not all(turn.line for turn in prompt.turns):
        raise CaptionFault("A speaker of the caption says nothing; write the words after the colon, in quotes.")
    text = mend(text)
    if labels.scene and not prompt.scene:
        return f"{labels.scene.strip().rstrip(',.')}, {text}"
    return text


def retell(caption: str, line: str) -> str:
    """A caption with one speaker, given other words to say.

    Raises:
        CaptionFault: the caption has several speakers, or the words cannot be quoted.
    """
    prompt = parse(caption)
    if len(prompt.turns) != 1:
        raise CaptionFault("The caption has several speakers, so its words cannot be shared out; cut the file.")
    turn = prompt.turns[0]
    return compose(line, Labels(turn.speaker, turn.manner, prompt.scene or None))


def spoken(text: str) -> str:
    """A transcript without what a caption's grammar gives another meaning: quotes become single, brackets go.

    Empty if no word is left.

    Raises:
        CaptionFault: as `clean`.
    """
    text = re.sub(r"\([^()]*\)|\[[^\[\]]*\]", " ", clean(text))  # Whisper's (laughs) and [music]
    text = clean(re.sub(r"[()]", " ", re.sub(r'["“”„«»]', "'", text)))
    if len(text) > 1 and text[0] == text[-1] == "'":
        text = text[1:-1].strip()
    return text if re.search(r"\w", text) else ""


def manner_words(speaker: str, manner: str | None) -> str:
    """The words for a register, as the public adapter's captions have them; other words stay what they are."""
    gender = "man" if speaker.split()[-1:] == ["man"] else "woman"
    return MANNERS.get((gender, manner or "normal"), manner or "")


def asked_register(turn: Turn) -> Register | None:
    """The register that a training clip must have to fit its caption; None for manners that are no register.

    Not `Turn.register`, which says what the public adapter makes of a prompt.
    """
    words = set(re.findall(r"[^\W\d_]+", turn.manner))
    if not words:
        return "normal"
    for register in ("whispering", "soft", "normal"):
        if words & set(_MANNERS[register]):
            return register
    return "normal" if words <= {"speaking", "talking"} else None


def _names_speaker(words: str) -> bool:
    """Whether what stands in brackets was meant as `(woman, whispering)`."""
    first = re.split(r"[,，:：\s]", words.strip().lower(), maxsplit=1)[0]
    return _find(first, _SPEAKERS) is not None or _find(first, _MANNERS) is not None


def _find(word: str, table: dict[str, tuple[str, ...]]) -> str | None:
    return next((name for name, words in table.items() if word in words), None)


def _start(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"
