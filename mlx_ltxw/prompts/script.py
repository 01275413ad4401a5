"""Scripts: mixed-register dialogue as parts, each a clip of one register."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text
from mlx_ltxw.parsing import parse_json, parse_yaml
from mlx_ltxw.prompts.registers import build_prompt, mend, parse

LARGEST = 4 << 20
"""Bytes of a script."""

_FIELDS = ("scene", "speaker", "manner", "line")
_OPTIONS = ("seconds", "adapter", "strength", "seed")
_KNOWN = ", ".join((*_FIELDS, *_OPTIONS))


@dataclass(frozen=True)
class Part:
    """One clip of a script.

    Attributes:
        prompt: In the adapter's grammar.
        seconds: How long it shall be; None leaves it to the run's settings.
        adapters: Its own; None leaves them to the run.
        strength: Of its adapters, in place of theirs.
        seed: Its own; None leaves it to the run.
        normal: Whether it is to be spoken as the base model speaks, without the run's adapters.
    """

    prompt: str
    seconds: float | None = None
    adapters: tuple[str, ...] | None = None
    strength: str | None = None
    seed: int | None = None
    normal: bool = False


def read_script(path: Path) -> list[Part]:
    """Reads a script file.

    A `.yaml`, `.yml` or `.json` file is a list of tables with `scene`, `speaker`, `manner`, `line`; `scene` may be left
    out after the first and then stays. If wanted, a part has `seconds`, `seed`, `adapter` (one, a list, or `none`) and
    `strength`; a part with the manner `normal` and no adapter of its own has none. Any other file holds one prompt of
    the grammar a line, blank lines and lines that begin with `#` left out; all have the run's adapters.

    Raises:
        UserError: naming the part or line that is wrong.
    """
    try:
        text = read_text(path, LARGEST)
    except UserError as error:
        raise UserError(f"The script cannot be read: {error.message}", "Give a UTF-8 text or YAML file.") from error
    parts = _from_table(path, text) if path.suffix.lower() in (".yaml", ".yml", ".json") else _from_lines(path, text)
    if not parts:
        raise UserError(f"The script '{path}' is empty.", "Write one part a line, or a YAML list.")
    return parts


def _from_lines(path: Path, text: str) -> list[Part]:
    parts = []
    for number, line in enumerate(text.splitlines(), 1):
        prompt = line.strip()
        if not prompt or prompt.startswith("#"):
            continue
        turns = parse(prompt).turns
        if len(turns) != 1 or not turns[0].quoted:
            raise UserError(
                f"Line {number} of '{path}' is not one part of a script.",
                'Write it as: a dim room, (woman, whispering): "close your eyes".',
            )
        parts.append(Part(mend(prompt)))
    return parts


def _from_table(path: Path, text: str) -> list[Part]:
    parse_table = parse_json if path.suffix.lower() == ".json" else parse_yaml
    items = parse_table(text, f"The script '{path}'", "Mend it, or write lines.")
    if not isinstance(items, list):
        raise UserError(f"The script '{path}' is no list.", "Write a list of parts, each beginning with '- '.")
    parts: list[Part] = []
    scene: str | None = None
    for number, item in enumerate(items, 1):
        part, scene = _part(path, number, item, scene)
        parts.append(part)
    return parts


def _part(path: Path, number: int, item: Any, scene: str | None) -> tuple[Part, str]:
    where = f"Part {number} of '{path}'"
    if not isinstance(item, dict):
        raise UserError(f"{where} is no table.", f"Give it {', '.join(_FIELDS)}.")
    unknown = sorted(str(key) for key in item.keys() - {*_FIELDS, *_OPTIONS})
    if unknown:
        raise UserError(
            f"{where} has the unknown key {', '.join(unknown)}.", f"Known: {', '.join((*_FIELDS, *_OPTIONS))}."
        )
    fields = ({"scene": scene} if scene is not None else {}) | item
    missing = [key for key in _FIELDS if not isinstance(fields.get(key), str)]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)} (each a text).", "Add what is missing.")
    seconds = item.get("seconds")
    counts = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (counts and 0 < seconds <= 600):
        raise UserError(f"{where}: seconds is {seconds!r}.", "Give a number of seconds over 0.")
    try:
        prompt = build_prompt(*(fields[key] for key in _FIELDS))
    except UserError as error:
        raise UserError(f"{where}: {error.message}", error.hint) from error
    part = Part(
        prompt, None if seconds is None else float(seconds), _adapters(where, item.get("adapter")),
        _strength(where, item.get("strength")), _seed(where, item.get("seed")), fields["manner"] == "normal",
    )  # fmt: skip
    return part, fields["scene"]


def _adapters(where: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{where}: adapter is {value!r}.", "Give a name, a list of names, or none.")
    return () if names == ["none"] else tuple(names)


def _strength(where: str, value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: strength is {value!r}.", "Give a number, or module=number pairs.")
    return str(value)


def _seed(where: str, value: Any) -> int | None:
    if value is not None and type(value) is not int:
        raise UserError(f"{where}: seed is {value!r}.", "Give a whole number.")
    return value
