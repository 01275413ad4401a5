"""What people read: texts from files with their control characters made visible, and sizes."""

from __future__ import annotations

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


def readable(nbytes: float) -> str:
    """Bytes in powers of 1000, as disks and the Hub count."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} GB"
