"""All kinds of inputs, by the rooms that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.campaign import kinds
from scripts.campaign.given import given
from scripts.campaign.kinds import Kind
from scripts.campaign.made import Made

GROUPS: dict[str, Callable[[Made, Path], Iterator[Kind]]] = {
    "adapters": kinds.adapters, "models": kinds.models, "metadata": kinds.made_files, "texts": kinds.texts,
    "runs": kinds.runs, "media": kinds.media, "given": given,
}  # fmt: skip
"""Name -> what makes the sound files of its kinds in a folder."""
