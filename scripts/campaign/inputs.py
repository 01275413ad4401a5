"""Damaged inputs of every kind, each given to the commands that read it."""

from __future__ import annotations

import importlib
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from scripts.campaign.forked import LOADED, Outcome, call
from scripts.campaign.groups import GROUPS
from scripts.campaign.kinds import Kind
from scripts.campaign.made import Made


def run(
    made: Made, folder: Path, count: int, seed: int, groups: Sequence[str] = (), keep: Path | None = None
) -> list[str]:
    """Prints a table and every fault, and gives back all faults.

    Args:
        made: The model and clips.
        folder: Works in it.
        count: Damaged inputs, over all kinds together.
        seed: Decides what is damaged, and how.
        groups: Of kinds, those to try; empty for all.
        keep: Where the folders of faults are kept; None keeps none.
    """
    for name in LOADED:
        importlib.import_module(f"mlx_ltxw.{name}")
    chosen = [kind for group in groups or GROUPS for kind in GROUPS[group](made, folder)]
    faults: list[str] = []
    print(f"{'kind':<22} {'inputs':>6} {'sound':>6} {'told':>6} {'faults':>6} {'most MB':>8} {'seconds':>8}")
    for number, kind in enumerate(chosen):
        share = count // len(chosen) + (number < count % len(chosen))
        tally: Counter[str] = Counter()
        begun, peak = time.monotonic(), 0
        for index in range(share):
            found, outcomes = _try(kind, folder / "work", Random(f"{seed} {kind.name} {index}"))
            peak = max([peak, *(outcome.peak for outcome in outcomes)])
            tally["sound" if all(outcome.code == 0 for outcome in outcomes) else "told"] += 1
            for fault in found:
                text = f"{kind.name} {index}: {fault}"
                faults.append(text)
                tally["faults"] += 1
                print(f"    {text}", flush=True)
                if keep is not None:
                    shutil.copytree(folder / "work", keep / f"{kind.name}-{index}", dirs_exist_ok=True)
        row = f"{kind.name:<22} {share:>6} {tally['sound']:>6} {tally['told']:>6} {tally['faults']:>6}"
        print(f"{row} {peak / 1e6:>8.0f} {time.monotonic() - begun:>8.0f}", flush=True)
    print(f"{count} inputs, {len(faults)} faults")
    return faults


def _try(kind: Kind, work: Path, dice: Random) -> tuple[list[str], list[Outcome]]:
    """Damages one file of a kind and gives it to the kind's commands; the faults, and how each command ended."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    kind.damage(work, dice)
    faults, outcomes = [], []
    for arguments in kind.commands(work):
        outcome = call(arguments, work)
        outcomes.append(outcome)
        fault = outcome.fault or (kind.silence(work, arguments, outcome.output) if outcome.code == 0 else None)
        if fault:
            faults.append(f"{arguments[0]}: {fault}")
        left = [path.name for path in work.rglob(".mlx-ltxw-*.part")]
        if left and outcome.code is not None:
            faults.append(f"{arguments[0]}: leaves {left[0]}")
    return faults, outcomes
