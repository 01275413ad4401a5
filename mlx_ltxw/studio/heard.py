"""What the helper finds out about files that a page shows, and where it keeps that.

Everything lies in the studio's cache, a folder for each file, and can be made again at any time.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from mlx_ltxw.studio import texts_hear as texts
from mlx_ltxw.studio.analysis import SUFFIX, Shown, kept, show, waveform
from mlx_ltxw.studio.difference import difference
from mlx_ltxw.studio.folder import StudioFolder


def cache_of(folder: StudioFolder, path: Path) -> Path:
    """Where what is shown of a file is kept: by its name and, as names may be the same, a hash of its place."""
    digest = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return folder.cache / f"{digest}{SUFFIX}"


def kept_of(folder: StudioFolder, path: Path) -> Shown | None:
    """What was found of a file before, if it is still the same.

    Raises:
        UserError: it is gone.
    """
    return kept(path, cache_of(folder, path))


def forget(folder: StudioFolder, path: Path) -> None:
    """Removes what was found of a file."""
    shutil.rmtree(cache_of(folder, path), ignore_errors=True)


def find(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """Listens to a file, `values["path"]`, and keeps what is shown of it.

    Raises:
        UserError: it cannot be read, or has no sound.
    """
    path = Path(values["path"])
    show(path, cache_of(folder, path))
    return {}


def find_waveform(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """The waveform of `values["path"]` alone: `seconds`, `low` and `high`.

    Raises:
        UserError: as `find`.
    """
    path = Path(values["path"])
    found = waveform(path, cache_of(folder, path))
    return {"seconds": found.seconds, "low": found.low, "high": found.high}


def compare(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """The difference of the pictures of two files, `one` and `other`: `mean` of each frame, and a sentence.

    Raises:
        UserError: a file cannot be read, or has no picture.
    """
    found = difference(Path(values["one"]), Path(values["other"]))
    if found is None:
        return {"text": texts.OTHER_SIZES, "mean": []}
    frames = len(found.most)
    if not any(found.most):
        return {"text": texts.SAME_PICTURES.format(frames=frames), "mean": list(found.mean)}
    worst = max(range(frames), key=found.mean.__getitem__)
    text = texts.OTHER_PICTURES.format(
        share=sum(value > 0 for value in found.most), frames=frames, mean=f"{sum(found.mean) / frames:.2f}",
        most=found.most[worst], second=f"{worst / found.frame_rate:.2f}",
    )  # fmt: skip
    return {"text": text, "mean": [round(value, 3) for value in found.mean]}
