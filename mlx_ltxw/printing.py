"""What people read: texts from files with their control characters made visible, and sizes."""

from __future__ import annotations

import re
import unicodedata

_HARMLESS = {"\u200c", "\u200d"}  # joiners inside words and pictographs
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, formats, surrogates, line separators


def printable(text: object, keep: str = "") -> str:
    """A text of unknown origin as a terminal may show it: whatever would steer it stands there escaped (`\\x1b`).

    Args:
        text: Of a file: a name, a value; other objects as `str` gives them.
        keep: Characters to leave as they are, such as a newline.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or not _steers(c) else ascii(c)[1:-1] for c in text)


def _steers(character: str) -> bool:
    return character not in _HARMLESS and unicodedata.category(character) in _UNSEEN


def some(items: list[str], limit: int = 8) -> list[str]:
    """The first few of a list, and how many more there are."""
    return items if len(items) <= limit else [*items[:limit], f"and {len(items) - limit} more"]


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"K": 10**3, "M": 10**6, "G": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def read_bytes(text: str | int) -> int:
    """Bytes of a size that a person wrote: `12GB`, `11.5 GB`, `8GiB`; a number is one of bytes.

    Raises:
        ValueError: anything else, or nothing at all.
    """
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]{0,3})\s*", str(text))
    size = int(float(match[1]) * _UNITS.get(match[2].upper(), 0)) if match else 0
    if not size:
        raise ValueError(f"{text!r} is no size")
    return size


def readable(nbytes: float) -> str:
    """Bytes in powers of 1000, as disks and the Hub count."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} GB"


def counted(number: int, noun: str) -> str:
    """A number of things: `1 clip`, `2 clips`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def staying(stay: int, blocks: int) -> str:
    """How many of a model's blocks stay in memory: `all 48 blocks stay`, `1 of 48 blocks stays`."""
    return f"all {blocks} blocks stay" if stay == blocks else f"{stay} of {blocks} blocks stay{'s' * (stay == 1)}"


def duration(seconds: float) -> str:
    """Seconds as people say them, to two figures or so: `4.2 s`, `52 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 3570:
        minutes, rest = divmod(round(seconds / 10) * 10, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"
