"""`mlx-ltxw export`: an adapter in another program's spelling."""

from __future__ import annotations

from pathlib import Path

import click

from mlx_ltxw.cli.fields import FileName


@click.command()
@click.argument("adapter", type=FileName())
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Choice(["comfyui", "diffusers", "mlx"]),
    help="Program that shall read it; comfyui is also the official spelling.",
)
@click.option(
    "-o", "--output", type=FileName(path_type=Path), help="New file.  [default: NAME.TARGET.safetensors here]"
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there already.")
def export(adapter: str, target: str, output: Path | None, overwrite: bool) -> None:
    """Write ADAPTER (file, folder, Hub repository or built-in name) the way another program reads it."""
    from mlx_ltxw.takes.export import export as write

    done = write(adapter, target, output, overwrite=overwrite)
    for note in done.notes:
        click.echo(f"note: {note}")
    click.echo(f"wrote {done.modules} modules to {done.path}")
