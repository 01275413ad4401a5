"""Damage: to the values of a table, to the words of a text, to the bytes of a file."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 1e9, 1e308, float("nan"), float("inf"), -0.5,
    "", "x", "48", "\x1b[31mred", "\ud800", "a\0b", "../x", "/etc/passwd", "é" * 9, "~nouser/x", "x" * 5000,
    "http://127.0.0.1:9/x", [], [[]], {}, {"a": None}, [1] * 1000, "2024-01-01", "0b11", "1e400",
)  # fmt: skip
_ODD_TEXT = (
    "[" * 10000, "{" * 10000, "9" * 5000, "1e999", "NaN", "-Infinity", "2024-02-30", "0b1010", "0o7", "0x1F",
    "12:30:45", "&a [*a]", "!!python/object:os.system x", "*missing", "\ufeff", "\x00", "\x1b]0;t\x07", "\u202e",
    "\udcff", '"', "'", "(", ")", "：", "“", "”", "\t", "\r\n", "\r", ": ", "- ", "#", "---", "...", "%", "|", ">", "~",
    "null", "true", ", ,", "💤" * 50, "word " * 3000,
)  # fmt: skip
_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)

Dice = random.Random
Damage = Callable[[bytes, Dice], bytes]


def damaged_bytes(data: bytes, dice: Dice) -> bytes:
    """Bits turned, bytes taken out, put in or doubled, the end cut off."""
    raw = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 5, 50))):
        at = dice.randrange(max(1, len(raw)))
        early = dice.randrange(max(1, min(len(raw), 4096)))  # headers stand in front
        at = dice.choice((at, early))
        match dice.randrange(7):
            case 0 if raw:
                raw[at] ^= 1 << dice.randrange(8)
            case 1:
                raw[at : at + 1] = bytes([dice.choice((0, 0x7F, 0x80, 0xFF, 0x20))])
            case 2:
                del raw[at : at + dice.choice((1, 4, 100, 4000))]
            case 3:
                raw[at:at] = dice.randbytes(dice.choice((1, 4, 100)))
            case 4:
                raw[at:at] = raw[at : at + dice.choice((8, 200))]
            case 5:
                raw[at : at + 4] = struct.pack("<I", dice.choice((0, 1, 2**31, 2**32 - 1)))
            case _:
                del raw[dice.randrange(len(raw) + 1) :]
    return bytes(raw)


def damaged_text(data: bytes, dice: Dice) -> bytes:
    """Odd pieces put in, lines doubled, swapped or taken out; another encoding."""
    text = data.decode()
    if dice.random() < 0.03:
        return _BOMB.encode()
    for _ in range(dice.choice((1, 1, 2, 4))):
        at = dice.randrange(len(text) + 1)
        lines = text.split("\n")
        row = dice.randrange(len(lines))
        match dice.randrange(7):
            case 0 | 1:
                text = text[:at] + dice.choice(_ODD_TEXT) + text[at:]
            case 2:
                text = text[:at] + text[at + dice.choice((1, 3, 40)) :]
            case 3:
                lines.insert(row, lines[row])
                text = "\n".join(lines)
            case 4:
                lines[row] = lines[row].partition(":")[0] + ": " + dice.choice(_ODD_TEXT)
                text = "\n".join(lines)
            case 5:
                lines[row] = "  " * dice.randrange(4) + lines[row].strip()
                text = "\n".join(lines)
            case _:
                lines[row] = dice.choice(_ODD_TEXT)
                text = "\n".join(lines)
    encoding = dice.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"))
    return text.encode(encoding, "replace" if encoding == "cp1252" or dice.random() < 0.2 else "surrogatepass")


def damaged_json(data: bytes, dice: Dice) -> bytes:
    """A table with values of another kind, names taken out, doubled or new ones; or damaged as a text."""
    if dice.random() < 0.2:
        return damaged_text(data, dice)
    if dice.random() < 0.1:
        return damaged_bytes(data, dice)
    lines = data.decode().splitlines() if b"}\n{" in data or b"]\n[" in data else [data.decode()]
    at = dice.randrange(len(lines))
    lines[at] = json.dumps(damaged_values(json.loads(lines[at]), dice))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def damaged_values(values: Any, dice: Dice) -> Any:
    """A copy of parsed values, some of them changed."""
    values = json.loads(json.dumps(values))
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        places = list(_places(values))
        if not places or dice.random() < 0.02:
            return _odd(dice)
        holder, key = dice.choice(places)
        match dice.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[dice.choice(("new", "", "\x1b[1m", "../x", "x" * 300))] = _odd(dice)
            case 2:
                holder[key] = [holder[key]]
            case 3 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
                holder[key] = dice.choice((-holder[key], holder[key] * 2, holder[key] * 10**6, holder[key] + 1, 0))
            case 4 if isinstance(holder[key], str):
                holder[key] = str(damaged_text(holder[key].encode(), dice), "utf-8", "replace")
            case 5:
                holder[key] = json.loads(json.dumps(dice.choice(places)[0]))
            case _:
                holder[key] = _odd(dice)
    return values


def damaged_safetensors(data: bytes, dice: Dice) -> bytes:
    """Another header, its metadata included, or damaged bytes."""
    if dice.random() < 0.15:
        return damaged_bytes(data, dice)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header.get("__metadata__")
    choice = dice.random()
    if metadata and choice < 0.5:
        name = dice.choice(sorted(metadata))
        try:
            table = json.loads(metadata[name])
        except ValueError:
            table = None
        if isinstance(table, dict | list):
            metadata[name] = str(damaged_json(metadata[name].encode(), dice), "utf-8", "surrogateescape")
        else:
            metadata[name] = _odd(dice)
        text = json.dumps(header).encode()
    elif choice < 0.6:
        text = damaged_json(json.dumps(header).encode(), dice)
    else:
        text = json.dumps(damaged_values(header, dice)).encode()
    size = dice.choice((0, 1, 2**40, 2**63, len(text) + 1)) if dice.random() < 0.05 else len(text)
    return size.to_bytes(8, "little") + text + data[8 + length :]


def _odd(dice: Dice) -> Any:
    return copy.deepcopy(dice.choice(ODD_VALUES))  # some of them are damaged in turn


def _places(values: Any) -> Any:
    """Every item of every table and list: what holds it, and under what name."""
    left = [values]
    while left:
        holder = left.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ():
            yield holder, key
            left.append(holder[key])
