"""`mlx-ltxw convert`: an official checkpoint and a Gemma-3 become a model directory."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import click

from mlx_ltxw.cli.fields import FileName


@click.command(short_help="Make a model directory from an LTX-2.3 checkpoint.")
@click.argument("source", type=FileName())
@click.option("-o", "--out", type=FileName(path_type=Path), help="Model directory to write, or to continue.")
@click.option(
    "-q",
    "--quantize",
    type=click.Choice(["4", "8", "mxfp4", "mxfp8", "nvfp4"]),
    help="Quantise the linears of the transformer's blocks and of the text encoder.",
)
@click.option("--group-size", type=int, help="Weights that share a scale, with -q 4 or 8: 32, 64 (default) or 128.")
@click.option(
    "--text-encoder",
    type=FileName(),
    metavar="SOURCE",
    help="Gemma-3: a directory, or a Hub repo as owner/name[@revision].",
)
@click.option("--revision", help="Branch, tag or commit of the checkpoint's Hub repo.")
@click.option("--variant", type=click.Choice(["dev", "distilled"]), help="Where the file's name does not tell.")
@click.option(
    "--upsampler", "upsamplers", multiple=True, type=FileName(), metavar="SOURCE",
    help="A latent upsampler, for two stages: a file, owner/name/file on the Hub, or spatial-x2, spatial-x1.5, "
    "temporal-x2 for the official ones. Repeat for more; those in SOURCE's directory are taken without it.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the plan from the files' headers, and write nothing.")
@click.option("--verify", is_flag=True, help="Hash and load everything again at the end.")
@click.option("--upload", metavar="OWNER/REPO", help="Push the model to the Hub at the end, with a model card.")
@click.option("--private", is_flag=True, help="With --upload: a new repository is seen by its owner alone.")
def convert(
    source: str,
    out: Path | None,
    quantize: str | None,
    group_size: int | None,
    text_encoder: str | None,
    revision: str | None,
    variant: str | None,
    upsamplers: tuple[str, ...],
    dry_run: bool,
    verify: bool,
    upload: str | None,
    private: bool,
) -> None:
    """Make a model directory from an LTX-2.3 checkpoint, or add a latent upsampler to one.

    SOURCE is a .safetensors file, a directory of component files, or a Hub repo (owner/name or owner/name/file). A run
    that was cut continues with the same command.
    """
    from mlx_ltxw.cli.fields import spelling
    from mlx_ltxw.convert import face, run
    from mlx_ltxw.convert.upload import upload as push
    from mlx_ltxw.convert.upsampler import names_upsampler
    from mlx_ltxw.errors import UserError, spelled
    from mlx_ltxw.hub import check_upload

    if out is None and not dry_run:
        raise UserError("There is no output directory.", "Add -o DIR, or {field:dry_run} to see the plan.")
    if private and upload is None:
        raise UserError("{field:private} belongs to {field:upload}.", "Leave it out, or add {field:upload}.")
    if upload is not None and dry_run:
        raise UserError("{field:dry_run} writes nothing to upload.", "Leave {field:upload} out with it.")
    if upload is not None:
        check_upload(upload)
    alone = names_upsampler(source)
    if alone:
        face.check_upsampler_options(text_encoder, quantize, group_size, revision, variant, upload)
    plans = None if alone else face.prepare(
        source, text_encoder, quantize, group_size, revision, variant, data=not dry_run
    )  # fmt: skip
    found = face.open_upsamplers(plans, (source, *upsamplers) if alone else upsamplers, data=not dry_run)
    if dry_run:
        for line in chain(map(str, found), run.dry_run(plans) if plans else ()):  # line by line: it may end in an error
            click.echo(spelled(line, spelling(click.get_current_context().command)))
    elif out is not None:
        model = face.write(plans, found, out, verify)
        click.echo(f"{model.path}: LTX-2.3 {model.variant}, {len(model.files)} files{', verified' if verify else ''}")
        if upload and plans:
            click.echo(push(plans, model, upload, private or None))
