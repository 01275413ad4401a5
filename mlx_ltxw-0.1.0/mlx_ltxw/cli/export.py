"""`mlx-ltxw export`: an adapter in another program's spelling."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("adapter")
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Choice(["comfyui", "diffusers", "mlx"]),
    help="Program that shall read it; comfyui is also the official spelling.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="New file; default: NAME.TARGET.safetensors here."
)
def export(adapter: str, target: str, output: Path | None) -> None:
    """Writes ADAPTER (file, folder, Hugging Face repository or built-in name) the way another program reads it."""
    from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
    from mlx_ltxw.adapter.export import export as write
    from mlx_ltxw.adapter.formats import read
    from mlx_ltxw.adapter.source import locate

    located = locate(adapter, BUILTIN_ADAPTERS)
    path = output or Path(f"{located.name.rsplit('/', 1)[-1]}.{target}.safetensors")
    source = read(located.path, config=located.config, name=located.name)
    write(source, target, path)
    for note in source.notes:
        click.echo(f"note: {note}")
    click.echo(f"wrote {len(source.targets)} modules to {path}")
