"""The seeds of a script's parts, kept beside them until the whole is written: a run that was cut has those again that
it drew, and a whole that is there beside them is its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text, write_text
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.pipeline.request import SEEDS
from mlx_ltxw.pipeline.resolve import Drawn

NAME = "drawn-seeds.json"


def drew(job: Plan) -> bool:
    """Whether a part's seed was left to chance."""
    return isinstance(job.settings.seeds[0], Drawn)


def seeds_kept(folder: Path) -> list[int]:
    """The parts' seeds in a run that was cut; none where there is no such run."""
    try:
        seeds = json.loads(read_text(folder / NAME))
    except (UserError, ValueError):
        return []
    sound = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < SEEDS for seed in seeds)
    return seeds if sound else []


@contextmanager
def keeping_seeds(jobs: Sequence[Plan], folder: Path) -> Iterator[None]:
    """Keeps the parts' seeds; no longer than the block, unless it is cut and leaves parts.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / NAME
    write_text(path, json.dumps([job.settings.seeds[0] for job in jobs]))
    try:
        yield
    except BaseException:
        if not any(folder.glob("*.wav*")):
            _remove(path)
        raise
    _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):  # the whole is written, or another error is on its way
        path.unlink(missing_ok=True)
