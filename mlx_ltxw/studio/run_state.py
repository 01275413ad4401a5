"""What a page is told of a training run. Runs in the helper's process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio import texts_train as texts
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.runs import ADAPTER, asked_of, run_folder
from mlx_ltxw.train.charts import smoothed, thinned
from mlx_ltxw.train.checkpoint import saved_steps
from mlx_ltxw.train.config import read_config
from mlx_ltxw.train.metrics import read_metrics
from mlx_ltxw.train.preview import all_samples
from mlx_ltxw.train.record import read_run

_KEEP = 0.95  # of the running mean, as the run's own page has it


def check_new(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """Looks over a new run before it is put into the queue.

    Raises:
        UserError: its name or an option will not do.
    """
    asked = asked_of(values)
    run = run_folder(folder, asked.run)
    if run.exists():
        message, hint = texts.NAME_TAKEN
        raise UserError(message.format(name=asked.run), hint)
    try:
        read_config(settings=asked.settings)
    except UserError as error:
        raise error.spelled(texts.spelling) from error
    return {"run": asked.run}


def about_run(values: dict[str, Any], folder: StudioFolder) -> dict[str, Any]:
    """What a page shows of a run.

    Raises:
        UserError: there is none of that name, or its record is damaged.
    """
    run = run_folder(folder, str(values["run"]))
    record = read_run(run)
    lines = read_metrics(run)
    losses = [(float(line["step"]), float(line["audio_loss"])) for line in lines]
    held_out = [(float(line["step"]), float(line["held_out_loss"])) for line in lines if "held_out_loss" in line]
    samples = [
        {"step": one.step, "number": int(one.wav.partition(".")[0]), "prompt": one.prompt, "register": one.register}
        for one in all_samples(run)
    ]
    return {
        "run": run.name,
        "steps": record.config.steps,
        "step": int(losses[-1][0]) if losses else 0,
        "saved": max(saved_steps(run), default=0),
        "finished": (run / ADAPTER).is_file(),
        "adapter": str(run / ADAPTER),
        "data": record.given.data,
        "model": record.given.model,
        "losses": thinned(losses),
        "mean": thinned(smoothed(losses, _KEEP)),
        "held_out": thinned(held_out),
        "samples": samples,
        "findings": _findings(run),
    }


def _findings(run: Path) -> int:
    """How many the data check had; 0 where it did not come so far."""
    try:
        return len(json.loads((run / "data.json").read_bytes())["findings"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
