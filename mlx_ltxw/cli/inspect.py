"""`mlx-ltxw inspect`: what a model directory, a checkpoint, an adapter or a made file holds."""

from __future__ import annotations

import json

import click

from mlx_ltxw.cli.fields import FileName


@click.command(short_help="Say what a model directory, checkpoint, adapter or made file holds.")
@click.argument("target", type=FileName())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(target: str, as_json: bool) -> None:
    """Say what TARGET holds: a model directory, a .safetensors checkpoint, an adapter (file, folder, repo, name), or
    the request in an mp4, wav or png of ours.
    """
    from mlx_ltxw.takes.describe import describe

    description = describe(target)
    click.echo(json.dumps(description.as_dict(), ensure_ascii=False) if as_json else str(description))
