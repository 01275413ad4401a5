"""The evidence: one row a condition and gender, and the gates that the rows must pass. Pure Python."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from scripts.voice_model.corpus import VOICES, WHISPERED_SENTENCES
from scripts.voice_model.evaluate_clips import BASE, Condition, Figures, Prompt

Clips = Sequence[tuple[Prompt, Figures]]
COLUMNS = {  # heading -> field of the row, width, format
    "n": ("n", 4, "d"),
    "voiced": ("voiced", 8, ".2f"),
    "LUFS": ("lufs", 8, ".1f"),
    "to base": ("difference", 9, "+.1f"),
    "identity": ("identity", 10, ".2f"),
    "unseen": ("unseen", 8, ".2f"),
    "mouth": ("mouth", 7, ".2f"),
    "video change": ("change", 14, ".4g"),
    "PSNR": ("psnr", 7, ".1f"),
    "s/clip": ("seconds", 8, ".1f"),
}


@dataclass(frozen=True)
class Row:
    """Means over the clips of one condition and gender; None where there is nothing to average.

    Attributes:
        subject, said, locked: Of the condition.
        condition: Its name.
        gender: Of the voices.
        n: Clips.
        voiced: Share of the speech.
        lufs: Integrated loudness.
        difference: Of `lufs` from the base's with plain captions.
        identity: Share whose nearest true clip says the same sentence.
        unseen: That share among sentences no adapter has heard whispered.
        mouth: Correlation of its opening with the sound.
        change: Relative L2 change of the video latents from the base's clip of the same caption and seed.
        psnr: Of the frames against that clip's, dB; infinite where all are equal.
        seconds: A clip took.
    """

    subject: str
    said: str
    locked: bool
    condition: str
    gender: str
    n: int
    voiced: float
    lufs: float
    difference: float | None
    identity: float
    unseen: float | None
    mouth: float
    change: float | None
    psnr: float | None
    seconds: float

    def facts(self) -> dict[str, Any]:
        """As JSON takes it: an infinite PSNR is null, and `change` 0."""
        return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in vars(self).items()}


@dataclass(frozen=True)
class Gate:
    """One demand on one row.

    Attributes:
        row: Whose.
        figure: What is demanded of.
        value: Measured; None fails, as nothing was.
        limit: The bound.
        least: Whether `limit` is the least that passes, or the most.
    """

    row: Row
    figure: str
    value: float | None
    limit: float
    least: bool

    @property
    def passed(self) -> bool:
        if self.value is None or math.isnan(self.value):
            return False
        return self.value >= self.limit if self.least else self.value <= self.limit

    def __str__(self) -> str:
        shown = "not measured," if self.value is None else f"{self.value:.4g}"
        title = f"{self.row.condition} {self.row.gender}: {self.figure}"
        return f"{'pass' if self.passed else 'FAIL'}  {title} {shown} {'>=' if self.least else '<='} {self.limit:g}"

    def facts(self) -> dict[str, Any]:
        """As JSON takes it."""
        bound = {"least": self.limit} if self.least else {"most": self.limit}
        names = {"condition": self.row.condition, "gender": self.row.gender, "figure": self.figure}
        return {**names, "value": self.value, **bound, "passed": self.passed}


def rows_of(clips: dict[Condition, Clips]) -> list[Row]:
    """The table; the base with plain captions must be among the conditions for differences from it."""
    level: dict[str, float] = {}
    for condition in clips:
        if (condition.subject, condition.said) == (BASE, "plain"):
            level = {gender: fmean(f.lufs for _, f in part) for gender, part in _by_gender(clips[condition])}
    return [
        _row(condition, gender, part, level.get(gender))
        for condition, every in clips.items()
        for gender, part in _by_gender(every)
    ]


def _by_gender(clips: Clips) -> Iterator[tuple[str, Clips]]:
    for gender in dict.fromkeys(voice.gender for voice in VOICES):
        part = [(prompt, figures) for prompt, figures in clips if VOICES[prompt.voice].gender == gender]
        if part:
            yield gender, part


def _row(condition: Condition, gender: str, clips: Clips, level: float | None) -> Row:
    every = [figures for _, figures in clips]
    right = [(p.sentence, float(f.sentence == p.sentence)) for p, f in clips]
    lufs = fmean(f.lufs for f in every)
    return Row(
        subject=condition.subject,
        said=condition.said,
        locked=condition.locked,
        condition=condition.name,
        gender=gender,
        n=len(clips),
        voiced=fmean(f.voiced for f in every),
        lufs=lufs,
        difference=None if level is None else lufs - level,
        identity=fmean(same for _, same in right),
        unseen=_mean([same for sentence, same in right if sentence not in WHISPERED_SENTENCES]),
        mouth=fmean(f.mouth for f in every),
        change=_mean([f.change for f in every if f.change is not None]),
        psnr=_mean([f.psnr for f in every if f.psnr is not None]),
        seconds=fmean(f.seconds for f in every),
    )


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None


def gates_of(rows: Sequence[Row]) -> list[Gate]:
    """Every demand there is on these rows."""
    plain = {row.gender: row for row in rows if (row.subject, row.said) == (BASE, "plain")}
    found = []
    for row in rows:
        if row.subject == BASE:
            found += _base_gates(row, plain[row.gender])
        elif row.locked:
            found += _adapter_gates(row, plain[row.gender])
    return found


def _base_gates(row: Row, plain: Row) -> list[Gate]:
    """Voice, sentence and lips are there, and the words for quiet registers mean nothing yet."""
    mouth = Gate(row, "mouth", row.mouth, 0.7, least=True)
    if row.said == "plain":
        return [
            Gate(row, "voiced", row.voiced, 0.8, least=True),
            Gate(row, "identity", row.identity, 0.95, least=True),
            mouth,
        ]
    return [*_near(row, plain, 1.5, 0.1), mouth]


def _adapter_gates(row: Row, plain: Row) -> list[Gate]:
    """Under the lock. Only an adapter that has also heard normal clips must leave plain captions alone."""
    found = [Gate(row, "video change", row.change, 0, least=False)]
    identity = Gate(row, "identity", row.identity, 0.9, least=True)
    if row.said == "whisper":
        unseen = Gate(row, "identity, unseen", row.unseen, 0.9, least=True)
        found += [Gate(row, "voiced", row.voiced, 0.25, least=False), identity, unseen]
    elif row.said == "soft":
        found += [Gate(row, "LUFS to base", row.difference, -8, least=False), identity]
    elif row.subject.endswith("mixed"):
        found += _near(row, plain, 3, 0.15)
    return found


def _near(row: Row, plain: Row, lufs: float, voiced: float) -> list[Gate]:
    return [
        Gate(row, "LUFS from base plain", abs(row.lufs - plain.lufs), lufs, least=False),
        Gate(row, "voiced from base plain", abs(row.voiced - plain.voiced), voiced, least=False),
    ]


def cells(row: Row) -> list[str]:
    """The row's figures as text, in the order of `COLUMNS`."""
    values = [(getattr(row, field), form) for field, _, form in COLUMNS.values()]
    return ["-" if value is None else format(value, form) for value, form in values]


def table(rows: Sequence[Row]) -> str:
    """Aligned text, one line a row."""
    width = max((len(row.condition) for row in rows), default=0) + 2
    sizes = [size for _, size, _ in COLUMNS.values()]
    lines = [f"{'condition':{width}}{'gender':7}" + "".join(f"{name:>{COLUMNS[name][1]}}" for name in COLUMNS)]
    for row in rows:
        figures = "".join(f"{cell:>{size}}" for cell, size in zip(cells(row), sizes, strict=True))
        lines.append(f"{row.condition:{width}}{row.gender:7}{figures}")
    return "\n".join(lines)
