"""`mlx_ltxw.convert(...)`, the conversion from Python."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import settle
from mlx_ltxw.weights.model_dir import ModelDir

from . import run
from .quantize import Quantization
from .upsampler import UpsamplerSource, add_upsamplers, names_upsampler, open_upsampler, read_upsampler
from .verify import verify_model


def convert(
    source: str | Path,
    out: str | Path,
    *,
    text_encoder: str | Path | None = None,
    quantize: str | None = None,
    group_size: int | None = None,
    revision: str | None = None,
    variant: str | None = None,
    verify: bool = False,
    upsamplers: Sequence[str | Path] = (),
) -> ModelDir:
    """Makes a model directory from an LTX-2.3 checkpoint; a run that was cut continues with the same call.

    Args:
        source: A .safetensors file, a directory of component files, or a Hub repo (`owner/name[/file]`); or a latent
            upsampler, which is added to the finished model `out`.
        out: The directory to write or to continue.
        text_encoder: Gemma-3: a directory, or a Hub repo (`owner/name[@revision]`).
        quantize: `4`, `8`, `mxfp4`, `mxfp8` or `nvfp4`, for the linears of the transformer's blocks and of Gemma.
        group_size: Weights that share a scale, with `4` or `8`: 32, 64 (default) or 128.
        revision: Branch, tag or commit of the checkpoint's repo.
        variant: `dev` or `distilled`, where the file's name does not tell.
        verify: Hashes and loads everything again at the end.
        upsamplers: Latent upsamplers for two stages: files, `owner/name/file` on the Hub, official file names, or
            `spatial-x2`, `spatial-x1.5`, `temporal-x2`. Those that lie in a checkpoint's directory are taken too.

    Raises:
        UserError: whatever is wrong with the sources or the directory.
    """
    settle()
    alone = names_upsampler(str(source))
    if alone:
        check_upsampler_options(text_encoder, quantize, group_size, revision, variant)
    conversion = None if alone else prepare(source, text_encoder, quantize, group_size, revision, variant)
    found = open_upsamplers(conversion, (source, *upsamplers) if alone else upsamplers)
    return write(conversion, found, Path(out), verify)


def write(
    conversion: run.Conversion | None, upsamplers: Sequence[UpsamplerSource], out: Path, verify: bool
) -> ModelDir:
    """Writes a model directory, if there is a conversion, and puts upsamplers into it; errors as `convert`."""
    if conversion is not None:
        run.convert(conversion, out)
    for line in add_upsamplers(out, upsamplers):
        print(line, file=sys.stderr)
    model = ModelDir.open(out)
    if verify:
        verify_model(model)
    return model


def check_upsampler_options(*options: object) -> None:
    """Refuses a checkpoint's options for an upsampler, which is stored as it is."""
    if any(option is not None for option in options):
        raise UserError(
            "An upsampler takes no {field:text_encoder}, {field:quantize}, {field:group_size}, {field:revision}, "
            "{field:variant} or {field:upload}.",
            "Leave them out; a revision is written behind the name, as owner/name/file@revision.",
        )


def open_upsamplers(
    conversion: run.Conversion | None, extra: Sequence[str | Path], data: bool = True
) -> list[UpsamplerSource]:
    """The upsamplers beside a checkpoint, and those that were named; of one kind the one that was named."""
    beside = conversion.source.upsamplers if conversion else ()
    folder = conversion.source.paths[0].parent if conversion and conversion.source.repo is None else None
    found = [read_upsampler(header, data=data) for header in beside]
    found += [open_upsampler(str(one), folder, data) for one in extra]
    return list({one.network.name: one for one in found}.values())


def prepare(
    source: str | Path,
    text_encoder: str | Path | None,
    quantize: str | None,
    group_size: int | None,
    revision: str | None,
    variant: str | None,
    data: bool = True,
) -> run.Conversion:
    """`run.prepare` with the quantisation as people write it; `data` False plans from headers alone."""
    if group_size is not None and quantize is None:
        raise UserError(
            "{field:group_size} needs {field:quantize}.",
            "Add {field:quantize=4} or {field:quantize=8}, or leave {field:group_size} out.",
        )
    return run.prepare(
        str(source),
        None if text_encoder is None else str(text_encoder),
        quantization=Quantization.parse(quantize, group_size) if quantize else None,
        revision=revision,
        variant=variant,
        data=data,
    )
