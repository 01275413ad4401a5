"""`mlx-ltxw doctor --hosts`: what several machines are, before they make clips together."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click


def hosts(hostfile: Path, model: str | None, as_json: bool) -> None:
    """Examines the hosts of a hostfile and tells of them; ends with 1 if they differ."""
    from mlx_ltxw.machines.hosts import differences, examine_hosts
    from mlx_ltxw.printing import readable

    found = examine_hosts(hostfile, model)
    wrong = differences(found)
    if as_json:
        click.echo(json.dumps({"ok": not wrong, "hosts": [asdict(one) for one in found], "differences": wrong}))
        sys.exit(1 if wrong else 0)
    width = max(len(one.host) for one in found)
    click.echo(f"{'host':<{width}}  {'mlx-ltxw':<10}{'mlx':<9}{'system':<16}{'model':<18}{'memory':>9}{'TFLOPS':>8}"
               f"{'receives':>12}{'latency':>9}")  # fmt: skip
    for one in found:
        click.echo(
            f"{one.host:<{width}}  {one.mlx_ltxw:<10}{one.mlx:<9}{one.system:<16}{one.model:<18}"
            f"{readable(one.memory):>9}{one.flops / 1e12:>8.2f}{readable(int(one.bandwidth)) + '/s':>12}"
            f"{one.latency * 1e3:>6.2f} ms"
        )
    for sentence in wrong:
        click.echo(click.style(sentence, fg="red"))
    click.echo("They differ: give all the same versions and the same model." if wrong else "They are alike.")
    sys.exit(1 if wrong else 0)


def as_host(model: str | None) -> None:
    """One host's part of it."""
    from mlx_ltxw.machines.hosts import answer, as_line

    found = answer(model)
    if found is not None:
        click.echo(as_line(found))
