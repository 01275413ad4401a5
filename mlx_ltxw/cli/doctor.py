"""`mlx-ltxw doctor`: what this machine can run, and what is wrong with it."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_ltxw.cli.fields import FileName

if TYPE_CHECKING:
    from mlx_ltxw.doctor.diagnosis import Diagnosis

MARKS = {"good": ("✓", "green"), "note": ("•", "yellow"), "fault": ("✗", "red")}
PLAIN = {"good": "ok", "note": "-", "fault": "!!"}
"""Where the terminal has no such signs."""
SCHEMA = 1
"""Of `--json`; a name that goes or changes its meaning raises it, a new one does not."""
_LABEL = 11


@click.command(short_help="Say what this machine can run, and what is wrong with it.")
@click.option(
    "-m", "--model", type=FileName(), metavar="DIR|REPO", help="A model to look at beside those that are found."
)
@click.option("--verify", is_flag=True, help="Hash every file of every model; minutes for large ones.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--hosts", "hostfile", type=FileName(path_type=Path), metavar="HOSTFILE",
    help="Look at the machines of a hostfile of `mlx.launch` instead: versions, model, links.",
)  # fmt: skip
@click.option("--as-host", is_flag=True, hidden=True)
def doctor(model: str | None, verify: bool, as_json: bool, hostfile: Path | None, as_host: bool) -> None:
    """Say what this machine can run, and what is wrong with it.

    Looks at the system, memory, disk, settings, the Hub's account, the models here and in the Hub's cache, and runs the
    built-in model against known results. Ends with 1 if something has to be mended.
    """
    from mlx_ltxw.cli import hosts

    if as_host:
        hosts.as_host(model)
        return
    if hostfile is not None:
        hosts.hosts(hostfile, model, as_json)
    from mlx_ltxw.doctor.examine import examine
    from mlx_ltxw.doctor.fits import table
    from mlx_ltxw.machine import this_machine

    found = []
    for one in examine(model, verify):
        found.append(one)
        if not as_json:
            _show(one)
    machine = this_machine()
    rows, budget = table(machine), machine.budget
    faults = [one for one in found if one.state == "fault"]
    if as_json:
        checks = [one.as_dict() for one in found]
        click.echo(
            json.dumps({"schema": SCHEMA, "ok": not faults, "checks": checks, "fits": {"budget": budget, "rows": rows}})
        )
    else:
        _show_table(rows, budget)
        count = f"{len(faults)} thing{'s' * (len(faults) > 1)} to mend" if faults else "Nothing to mend"
        click.echo(click.style(f"\n{count}.", fg="red" if faults else "green", bold=True))
    sys.exit(1 if faults else 0)


def _show(one: Diagnosis) -> None:
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    mark, colour = MARKS[one.state]
    mark, arrow = (PLAIN[one.state], "> ") if plain else (mark, "→ ")
    indent = 3 + _LABEL
    first, *more = _wrapped(one.text, indent)
    head = click.style(f"{mark:<3}", fg=colour, bold=True) + click.style(f"{one.area:<{_LABEL}}", bold=True)
    click.echo(head + first)
    advice = _wrapped(one.advice, indent + len(arrow))
    for line in [*more, *(arrow + line for line in advice[:1]), *(" " * len(arrow) + line for line in advice[1:])]:
        click.echo(" " * indent + line)


def _wrapped(text: str, indent: int) -> list[str]:
    width = max(40, min(110, shutil.get_terminal_size().columns) - indent)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _show_table(rows: list[dict[str, Any]], budget: int) -> None:
    from mlx_ltxw.printing import readable

    clips = list(rows[0]["clips"])
    click.echo(click.style(f"\nWhat fits into {readable(budget)} (LTX-2.3 22B on a GPU, on paper)", bold=True))
    click.echo(f"{'weights':<10}{'on disk':>10}" + "".join(f"{clip:>18}" for clip in clips))
    for row in rows:
        cells = []
        for clip in clips:
            cell = row["clips"][clip]
            stay = {None: "no", cell["of"]: "all"}.get(cell["blocks"], f"{cell['blocks']}/{cell['of']}")
            colour = "red" if cell["blocks"] is None else "green" if stay == "all" else "yellow"
            cells.append(click.style(f"{readable(cell['peak'])} {stay:>5}".rjust(18), fg=colour))
        click.echo(f"{row['precision']:<10}{readable(row['disk']):>10}" + "".join(cells))
    click.echo("all: the transformer stays in memory; 7/48: so many blocks do, the others are read each step")
