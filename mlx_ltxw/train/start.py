"""What comes before the first step: the options, the folder, and the data checked and encoded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from mlx_ltxw.files import write_bytes, write_errors
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.plan import latent_grid
from mlx_ltxw.train.checkpoint import saved_config
from mlx_ltxw.train.config import TrainConfig, read_config
from mlx_ltxw.train.data.cache import build_cache
from mlx_ltxw.train.data.dataset import write_listing
from mlx_ltxw.train.data.findings import Finding, refuse_errors
from mlx_ltxw.train.data.prepare import DataOptions, prepare
from mlx_ltxw.weights.model_dir import ModelDir

CONFIG = "config.yaml"

Progress = Callable[[str, int, int], object]
"""Gets the stage, and how many of its items are done, of how many."""


def run_config(file: Path | None, settings: Sequence[str], resumed: Path | None, model: ModelDir) -> TrainConfig:
    """The options; those of the run that is resumed where nothing else is said."""
    before = saved_config(resumed) if resumed else None
    return read_config(file, settings, before.to_dict() if before else None).with_sizes(model.generation)


def prepare_clips(
    data: Path, run: Path, cache: Path, model: ModelDir, config: TrainConfig, options: DataOptions, *,
    progress: Progress = lambda *_: None, tell: Callable[[Sequence[Finding]], object] = lambda _: None,
    leads: bool = True,
) -> list[Path]:  # fmt: skip
    """Cuts, checks and encodes the clips.

    Args:
        data: A folder of clips with captions, or a JSONL.
        run: Folder of the run; made if need be.
        cache: Where encoded clips are kept.
        model: The base.
        config: Sizes included.
        options: What is told of clips that do not tell.
        progress: Hears how far it is.
        tell: Gets what was found in the data, before errors among it end the run.
        leads: Whether this machine writes the listing.

    Returns:
        The cached clips.

    Raises:
        UserError: there is no data, or faults in it.
    """
    geometry = Geometry(*config.sizes, latent_grid(model))
    with write_errors(run):
        run.mkdir(parents=True, exist_ok=True)
    prepared = prepare(data, geometry, options, run, progress=progress)
    if prepared.findings:
        tell(prepared.findings)
    refuse_errors(prepared.findings)
    if leads:
        write_listing(run / "clips.jsonl", prepared.clips)
        write_bytes(run / "data.json", json.dumps(prepared.statistics, indent=1, ensure_ascii=False).encode())
    return build_cache(prepared.clips, model, cache, progress)


def write_config(run: Path, config: TrainConfig) -> None:
    """The options of a run, for people and for `--config`."""
    values: dict[str, Any] = config.to_dict()
    write_bytes(run / CONFIG, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())
