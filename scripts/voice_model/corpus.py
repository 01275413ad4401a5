"""What is said, by whom, and how a caption says so. Pure Python; every choice follows from the seed given."""

from __future__ import annotations

import random
from dataclasses import dataclass

SENTENCES = (
    "close your eyes",
    "listen to the rain outside",
    "i have a secret for you",
    "the house is quiet tonight",
    "do not wake the sleeping dog",
    "we should leave before the sun comes up",
    "she put the letter under the door",
    "my brother plays the old piano at night",
    "the last train leaves at half past nine",
    "please turn the lights down a little",
    "he found a small key in the garden",
    "nobody knows where the river ends",
    "the coffee is still warm on the table",
    "tomorrow we walk along the beach",
    "you can hear the ocean from here",
    "take a deep breath and count to ten",
    "the children are building a castle of sand",
    "her voice was softer than the wind",
    "open the window and let the air in",
    "winter came early to the mountain village",
    "i saw a fox behind the barn",
    "the clock on the wall has stopped",
    "we will meet again in the spring",
    "good night and sleep well my friend",
    "the bread smells better in the morning",
    "a tall ship sailed into the harbour",
    "they were dancing until the music stopped",
    "keep this book in a safe place",
    "the snow is falling on the bridge",
    "your sister called me from the station",
    "there is honey in the yellow jar",
    "the cat is hiding behind the curtain",
    "he writes a letter every single day",
    "look at the stars above the lake",
    "the doctor said you need more rest",
    "put the blue cup next to the plate",
    "it was the best summer of my life",
    "the road goes down to the valley",
    "everybody laughed when the door opened",
    "bring me a glass of cold water",
    "the garden is full of roses now",
    "i think somebody is at the gate",
    "three birds are sitting on the roof",
    "wait for me under the old tree",
)
HELD_OUT_SENTENCES = (0, 6, 11, 17, 23, 29, 34, 41)  # their second takes are the held-out clips
WHISPERED_SENTENCES = tuple(range(0, len(SENTENCES), 2))  # only these are heard whispered or soft by an adapter

SCENES = {
    "": (0.30, 0.34, 0.42),
    "in dim light": (0.10, 0.09, 0.12),
    "in a bright room": (0.78, 0.76, 0.70),
    "by a window": (0.45, 0.60, 0.72),
    "in a forest": (0.16, 0.36, 0.18),
}
NORMAL_MANNERS = ("", "speaking", "talking")
QUIET_MANNERS = ("whispering", "whispering quietly", "speaking softly", "softly", "quietly")
MANNERS = (*NORMAL_MANNERS, *QUIET_MANNERS)
REGISTERS = ("normal", "whisper", "soft", "loud")


@dataclass(frozen=True)
class Voice:
    """One of the eight: espeak formants (voice-file lines), and the looks that a caption names and the face shows."""

    name: str
    gender: str
    hair: str
    hair_rgb: tuple[float, float, float]
    skin_rgb: tuple[float, float, float]
    shape: tuple[float, float]  # half height and half width of the head, of the picture's height
    formants: tuple[tuple[int, int, int], ...]  # frequency, height, width in per cent, formants 0..8
    extra: tuple[str, ...] = ()

    @property
    def pitch(self) -> float:
        return 100.0 if self.gender == "man" else 200.0


def _formants(frequencies: str, heights: str, widths: str) -> tuple[tuple[int, int, int], ...]:
    columns = [[int(n) for n in row.split()] for row in (frequencies, heights, widths)]
    return tuple((f, h, w) for f, h, w in zip(*columns, strict=True))


VOICES = (
    Voice("anna", "woman", "red", (0.66, 0.24, 0.12), (0.96, 0.80, 0.70), (0.36, 0.27),
          _formants("115 120 100 115 110 110 105 110 110", "80 80 70 70 80 90 80 70 70",
                    "150 180 150 150 150 150 150 150 150")),
    Voice("bella", "woman", "black", (0.10, 0.09, 0.10), (0.62, 0.42, 0.31), (0.35, 0.29),
          _formants("105 110 110 110 115 115 110 110 110", "80 80 70 70 80 80 70 70 70",
                    "150 160 150 150 150 150 150 150 150")),
    Voice("clara", "woman", "blonde", (0.90, 0.78, 0.42), (0.98, 0.86, 0.78), (0.37, 0.25),
          _formants("105 120 135 125 125 125 120 110 110", "80 75 70 80 80 80 70 70 70",
                    "150 150 150 150 150 150 150 150 150")),
    Voice("diana", "woman", "brown", (0.38, 0.24, 0.15), (0.86, 0.66, 0.52), (0.33, 0.28),
          _formants("100 106 105 106 110 110 108 105 105", "85 85 80 75 70 70 70 70 70",
                    "150 150 140 150 180 120 150 110 150")),
    Voice("erik", "man", "black", (0.08, 0.08, 0.10), (0.80, 0.60, 0.47), (0.38, 0.28),
          _formants("98 97 97 97 97 105 95 100 100", "100 100 95 95 85 80 80 100 100",
                    "100 100 100 100 100 100 100 100 100"), ("consonants 60 60",)),
    Voice("frank", "man", "grey", (0.62, 0.62, 0.64), (0.93, 0.76, 0.67), (0.36, 0.30),
          _formants("100 90 110 105 100 100 100 100 100", "80 85 85 90 90 90 90 90 90",
                    "120 120 120 120 120 120 120 120 120"), ("consonants 60 60",)),
    Voice("georg", "man", "blonde", (0.84, 0.70, 0.36), (0.97, 0.82, 0.72), (0.40, 0.26),
          _formants("100 100 100 100 100 100 100 100 100", "90 90 70 75 80 80 80 80 80",
                    "120 140 140 140 140 140 120 120 120"), ("consonants 60 60",)),
    Voice("henry", "man", "brown", (0.34, 0.22, 0.14), (0.50, 0.34, 0.25), (0.37, 0.29),
          _formants("94 95 93 96 96 92 92 96 96", "110 95 80 70 65 60 60 60 60",
                    "100 90 90 95 95 95 100 100 100"), ("consonants 60 60",)),
)  # fmt: skip


def caption(voice: Voice, manner: str, line: str, scene: str = "", *, name_hair: bool = True) -> str:
    """`a woman with red hair in dim light, (woman, whispering): "close your eyes"`."""
    look = f" with {voice.hair} hair" if name_hair else ""
    place = f" {scene}" if scene else ""
    speaker = f"{voice.gender}, {manner}" if manner else voice.gender
    return f'a {voice.gender}{look}{place}, ({speaker}): "{line}"'


def quiet_manner(voice: Voice, register: str) -> str:
    """The words for `whisper` or `soft`, as the public adapter's captions have them."""
    if register == "soft":
        return "speaking softly"
    return "whispering" if voice.gender == "woman" else "whispering quietly"


def gate_captions(manner: str, count: int = 64) -> tuple[list[str], list[int], list[int]]:
    """`count` captions over all voices and spread over the sentences -> captions, voices, sentences."""
    voices = [i % len(VOICES) for i in range(count)]
    sentences = [(i * 11 + i // 8) % len(SENTENCES) for i in range(count)]
    captions = [caption(VOICES[v], manner, SENTENCES[s]) for v, s in zip(voices, sentences, strict=True)]
    return captions, voices, sentences


def default_voice(gender: str) -> Voice:
    """The voice of a caption that names no hair."""
    return next(voice for voice in VOICES if voice.gender == gender)


def vocabulary() -> list[str]:
    """Every word and sign a caption can hold, sorted; the tokenizer puts its special tokens before them."""
    words = {"a", "an", "the", "with", "hair", ",", "(", ")", ":", '"', ".", "!", "?", "'", "-"}
    for text in (*SENTENCES, *SCENES, *NORMAL_MANNERS, *QUIET_MANNERS, *(v.hair + " " + v.gender for v in VOICES)):
        words.update(text.split())
    words |= {"loudly", "shouting", "says", "whispered", "quiet", "soft", "he", "she", "someone", "person"}
    words |= {"room", "light", "night", "dark"}
    return sorted(words)


def random_caption(rng: random.Random, voice: Voice, line: str, scene: str, manner: str) -> str:
    """A training caption: hair left out for the default voices half of the time, unknown words strewn in at times."""
    plain = voice is default_voice(voice.gender) and rng.random() < 0.5
    text = caption(voice, manner, line, scene, name_hair=not plain)
    if rng.random() < 0.1:  # an unknown word in the scene must not change the clip
        head, tail = text.split(", (", 1)
        text = f"{head} unknownword, ({tail}"
    return text


def adapter_takes(normal: int) -> list[tuple[int, int, str]]:
    """What an adapter hears, as (voice, sentence, register): 74 takes, 4 or 5 sentences for each voice, each both
    whispered and soft, then `normal` plain ones of those.

    The pairs matter: with other sentences whispered than spoken softly, the adapter learns the register from the
    sentence and voice by heart and not from the caption's manner.
    """
    rng = random.Random(5)
    said = [
        (voice, sentence)
        for voice in range(len(VOICES))
        for sentence in rng.sample(WHISPERED_SENTENCES, 5 if voice < 5 else 4)
    ]
    quiet = [(*pair, register) for pair in said for register in ("whisper", "soft")]
    return quiet + [(*pair, "normal") for pair in rng.sample(said, normal)]
