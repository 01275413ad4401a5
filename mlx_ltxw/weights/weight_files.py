"""The names of weight files, in a folder or a repository."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mlx_ltxw.errors import UserError
from mlx_ltxw.printing import some

_PIECE = re.compile(r"(.*-)(\d{5})-of-(\d{5})(\.safetensors)", re.IGNORECASE)


def is_weights(name: str) -> bool:
    """Whether a file's name is that of weights; `._model.safetensors` is what macOS keeps beside on other disks."""
    last = name.rpartition("/")[2]
    return last.lower().endswith(".safetensors") and not last.startswith(".")


def missing_pieces(names: Iterable[str]) -> list[str]:
    """Of files in numbered pieces (`model-00001-of-00005.safetensors`), those that are not among some names."""
    listed = set(names)
    cuts = {(found[1], found[3], found[4]) for found in map(_PIECE.fullmatch, listed) if found}
    wanted = {f"{stem}{number:05d}-of-{total}{end}" for stem, total, end in cuts for number in range(1, int(total) + 1)}
    return sorted(wanted - listed)


def check_pieces(names: Iterable[str], where: object, hint: str) -> None:
    """Raises a UserError where pieces of a file are missing, as after a download that was cut.

    Args:
        names: Of the files that are there.
        where: The folder or repository, for the message.
        hint: What to do.
    """
    if missing := missing_pieces(names):
        raise UserError(f"{where} has only a part of its weights: there is no {', no '.join(some(missing))}.", hint)


def is_one_file(names: Iterable[str]) -> bool:
    """Whether these are all the pieces of one file, or a single one."""
    listed = sorted(names)
    found = [_PIECE.fullmatch(name) for name in listed]
    stems = {one and (one[1], one[3], one[4]) for one in found}
    return len(listed) == 1 or (len(stems) == 1 and None not in stems and not missing_pieces(listed))
