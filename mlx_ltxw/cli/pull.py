"""`mlx-ltxw pull`: a model of the Hub onto this disk."""

from __future__ import annotations

from pathlib import Path

import click

from mlx_ltxw.cli.fields import FileName


@click.command(short_help="Download a ready-made model.")
@click.argument("repo", type=FileName(), metavar="OWNER/REPO[@REVISION]")
@click.option("-o", "--out", type=FileName(path_type=Path), help="A folder of its own.  [default: the Hub's cache]")
@click.option(
    "--text-encoder", type=FileName(), metavar="DIR|REPO",
    help="Gemma-3 for a model of ltx-2-mlx's layout.  [default: mlx-community/gemma-3-12b-it-4bit]",
)  # fmt: skip
@click.option("--verify", is_flag=True, help="Hash every file again at the end, where the model has hashes.")
@click.option("-q", "--quiet", is_flag=True, help="Print where it lies and errors alone.")
def pull(repo: str, out: Path | None, text_encoder: str | None, verify: bool, quiet: bool) -> None:
    """Download a ready-made model, and say where it lies.

    REPO holds what `mlx-ltxw convert` wrote, or a model in the layout of ltx-2-mlx; of several transformers in it name
    one: OWNER/REPO/transformer-dev.safetensors. Only the files that are needed are fetched, and a download that was cut
    goes on.
    """
    import shlex

    from mlx_ltxw.takes.pull import pull as download

    def tell(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    try:
        done = download(repo, out, text_encoder, tell, verify)
    except KeyboardInterrupt:
        tell("\nWhat is downloaded by now stays; the same command goes on.")
        raise
    if done.model is None:
        tell("A text encoder, for models of ltx-2-mlx's layout; use it as")
        tell(f"  mlx-ltxw generate PROMPT -m MODEL --text-encoder {shlex.quote(done.use)} -o out.mp4")
    else:
        tell(f"LTX-2.3 {done.model.variant}, placed {done.tensors:,} of {done.tensors:,} tensors; use it as")
        encoder = f" --text-encoder {shlex.quote(done.text_encoder)}" if done.text_encoder else ""
        tell(f"  mlx-ltxw generate PROMPT -m {shlex.quote(done.use)}{encoder} -o out.mp4")
    click.echo(done.path)
