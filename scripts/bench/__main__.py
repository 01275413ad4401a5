"""What the program takes, part by part, beside its floor and its peers.

    python -m scripts.bench --what transformer --what guided --size 22b
    python -m scripts.bench --what all --size tiny --json

`tiny` tries everything out on a CPU; `half` and `22b` want a GPU with 12 and 80 GB, or fewer blocks (`--layers`).
`half` is the transformer at half its widths; what is around it, and the model of `start`, is then that of `small`.
Weights are random. Where PyTorch with CUDA and ltx-core are installed, the official classes run beside ours with the
same shapes. A floor is what the machine's own rates allow: of one large product, one large attention, one elementwise
operation, measured first.

More of each: `python -m scripts.bench.official` (fidelity beside the official classes), `.lock` (the exact video lock),
`.takes`, `.streaming`, `.train`, `.peak` (memory), each with `--help`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx

from mlx_ltxw.machine import settle, this_machine
from mlx_ltxw.models import ops
from scripts.bench.figures import Figure, as_json, machine, table
from scripts.bench.setting import CLIPS, SHRUNK, SMALL_CLIPS, Setting

PARTS = {
    "transformer": ("transformer", "measure"),
    "guided": ("transformer", "guided"),
    "scaling": ("transformer", "scaling"),
    "variants": ("variants", "measure"),
    "kernels": ("kernels", "measure"),
    "packings": ("variants", "packings"),
    "vocoder": ("networks", "vocoder"),
    "vae": ("networks", "vae"),
    "text": ("networks", "text"),
    "convert": ("networks", "convert"),
    "train": ("train", "figures"),
    "start": ("start", "measure"),
}
"""Name -> module of this folder, and its function of a `Setting` that gives figures."""


def figures(name: str, setting: Setting) -> Iterator[Figure]:
    """Of one part, one after another."""
    module, function = PARTS[name]
    measure: Callable[[Setting], Iterator[Figure]] = getattr(import_module(f"scripts.bench.{module}"), function)
    yield from measure(setting)
    mx.clear_cache()


@click.command(help=__doc__)
@click.option("--what", "parts", multiple=True, type=click.Choice([*PARTS, "all"]), default=("transformer", "guided"))
@click.option("--size", type=click.Choice([*SHRUNK]), default="22b", show_default=True)
@click.option("--clip", "clips", multiple=True, help="WIDTHxHEIGHTxFRAMES.  [default: three sizes]")
@click.option("--runs", default=7, show_default=True, help="Timed runs of each work after one that does not count.")
@click.option("--layers", type=click.IntRange(min=1), default=None, help="Blocks of the transformer.  [default: all]")
@click.option("--folder", type=click.Path(path_type=Path), help="For `start`: where its model is, or is made to stay.")
@click.option("--bits", type=click.Choice(["4", "8"]), help="For `start`: of its model's weights.  [default: bf16]")
@click.option("--official/--no-official", default=True, help="The official classes beside ours, where they are.")
@click.option("--json", "as_lines", is_flag=True, help="One JSON object a line, as each figure is known.")
def main(
    parts: tuple[str, ...], size: str, clips: tuple[str, ...], runs: int, layers: int | None, folder: Path | None,
    bits: str | None, official: bool, as_lines: bool,
) -> None:  # fmt: skip
    settle()
    ops.settle_compile()
    mx.set_cache_limit(this_machine().cache_limit)
    sizes = tuple(tuple(map(int, clip.split("x"))) for clip in clips)
    clip_sizes: Any = sizes or (SMALL_CLIPS if size == "tiny" else CLIPS)
    setting = Setting(size, runs, clip_sizes, official, layers or 0, folder, int(bits or 0))
    about = machine() | {"size": size} | ({"blocks": layers} if layers else {})
    if as_lines:
        click.echo(json.dumps(about))
    found, failed = [], False
    for name in PARTS if "all" in parts else parts:
        try:
            for figure in figures(name, setting):
                found.append(figure)
                if as_lines:
                    click.echo(json.dumps(as_json(figure)))
        except Exception as error:
            click.echo(f"{name}: {type(error).__name__}: {error}", err=True)
            failed = True
    if not as_lines:
        click.echo(", ".join(f"{name} {value}" for name, value in about.items()) + "\n")
        click.echo(table(found))
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
