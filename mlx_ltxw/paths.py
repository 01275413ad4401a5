"""Names of files as users and lists give them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from mlx_ltxw.errors import UserError


def local_path(text: str) -> Path:
    """The path a user named, `~` resolved.

    Raises:
        UserError: no system has such a name.
    """
    if not _may_be_a_name(text):
        short = text if len(text) <= 80 else f"{text[:77]}…"
        raise UserError(f"'{short}' cannot be the name of a file.", "Check the path.")
    with suppress(RuntimeError):  # `~nobody`: a folder of that very name, then
        return Path(text).expanduser()
    return Path(text)


def _may_be_a_name(text: str) -> bool:
    try:
        whole = os.fsencode(text)
    except UnicodeEncodeError:  # half a character
        return False
    return (
        whole != b""
        and b"\0" not in whole
        and len(whole) <= 4095
        and all(len(part) <= 255 for part in whole.split(b"/"))
    )


def inside(folder: Path, name: object) -> Path:
    """The path of a file that a list inside `folder` names.

    Raises:
        UserError: the name leads out of the folder, or is none.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) and "\0" not in name and "\\" not in name else ()
    if not parts or ".." in parts or parts[0].startswith("/"):
        raise UserError(f"A list in {folder} names {name!r}, which is no file in it.", "Copy or make the folder again.")
    return folder.joinpath(*parts)
