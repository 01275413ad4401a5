"""`python -m scripts.campaign inputs` and `kills`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from scripts.campaign.groups import GROUPS


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def campaign() -> None:
    """Damaged inputs, and runs that are killed; needs espeak-ng and ffmpeg."""


@campaign.command()
@click.option("--count", default=2000, show_default=True, help="Damaged inputs, shared evenly among the kinds.")
@click.option("--seed", default=0, show_default=True, help="Of what is damaged and how.")
@click.option("--group", "groups", type=click.Choice(list(GROUPS)), multiple=True, help="These alone.  [default: all]")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder where inputs that failed are kept.")
def inputs(count: int, seed: int, groups: tuple[str, ...], keep: Path | None) -> None:
    """Each damaged input gives a sentence and exit 2, or a sound run: no traceback, hang, memory or silence."""
    from scripts.campaign.inputs import run
    from scripts.campaign.made import make

    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        faults = run(make(Path(folder)), Path(folder), count, seed, groups, keep)
    sys.exit(1 if faults else 0)


@campaign.command()
@click.option("--count", default=100, show_default=True, help="Moments for each signal and each command.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--command", "commands", multiple=True, help="One command alone; repeat for more.")
@click.option("--signal", "signals", multiple=True, help="One signal alone, as SIGINT; repeat for more.")
def kills(count: int, seed: int, commands: tuple[str, ...], signals: tuple[str, ...]) -> None:
    """SIGKILL, SIGTERM and SIGINT, spread evenly over a run; then the same files as of one that nobody disturbed."""
    from scripts.campaign.kills import run
    from scripts.campaign.made import make

    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        faults = run(make(Path(folder)), Path(folder), count, seed, commands, signals)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    campaign()
