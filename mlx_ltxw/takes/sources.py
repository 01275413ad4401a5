"""Where an adapter's name points: into the package, to the Hub, or to a file of this machine."""

from __future__ import annotations

import os
import re

from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
from mlx_ltxw.adapter.source import Located
from mlx_ltxw.adapter.strength import parse_adapter

_PINNED = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(/[^@]+\.safetensors)?@[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(/[^@]+\.safetensors)?(@[\w./-]+)?")


def is_local(source: str) -> bool:
    """Whether an adapter (less its strength) is a file or folder of this machine rather than built in or on the Hub."""
    if source in BUILTIN_ADAPTERS or _PINNED.fullmatch(source):
        return False
    return os.path.exists(source) or not _REPOSITORY.fullmatch(source)


def pinned(spec: str, located: Located, source: str | None = None) -> str:
    """An adapter as the metadata keeps it: one of the Hub with the commit that was used.

    Args:
        spec: As the request names it.
        located: Where it was found.
        source: Its file or repo, where the strength behind it is not an adapter's.
    """
    source = parse_adapter(spec)[0] if source is None else source
    if is_local(source) or source in BUILTIN_ADAPTERS or _PINNED.fullmatch(source):
        return spec
    folders = located.path.parts  # the Hub's cache keeps each commit in `snapshots/COMMIT`
    if "snapshots" not in folders[:-2]:
        return spec
    commit = folders[len(folders) - 1 - folders[::-1].index("snapshots") + 1]
    return f"{source.partition('@')[0]}@{commit}{spec.removeprefix(source)}"
