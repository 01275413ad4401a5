"""`mlx-ltxw inspect`: what a model directory, a checkpoint or an adapter holds."""

from __future__ import annotations

import json
import re
from typing import Any

import click

_ADAPTER_KEY = re.compile(r"lora|lokr|hada_w|\.diff(_b)?$|dora_scale")


@click.command(short_help="Say what a model directory, checkpoint or adapter holds.")
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(target: str, as_json: bool) -> None:
    """Say what TARGET holds: a model directory, a .safetensors checkpoint, or an adapter (file, folder, repo, name)."""
    description = _describe(target)
    click.echo(json.dumps(description.as_dict()) if as_json else str(description))


def _describe(target: str) -> Any:
    from mlx_ltxw.files import local_path
    from mlx_ltxw.weights.describe import describe_header, describe_model
    from mlx_ltxw.weights.header import read_header
    from mlx_ltxw.weights.model_dir import ModelDir

    path = local_path(target)
    if path.is_dir() and not (path / "adapter_config.json").exists():
        return describe_model(ModelDir.open(path))
    if path.is_file():
        header = read_header(path)
        if not any(_ADAPTER_KEY.search(name) for name in header.tensors):
            return describe_header(header)
    from mlx_ltxw.adapter.describe import describe

    return describe(target)
