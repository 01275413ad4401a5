"""`mlx_ltxw.convert(...)`, the conversion from Python."""

from __future__ import annotations

from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.model_dir import ModelDir

from . import run
from .quantize import Quantization


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
) -> ModelDir:
    """Makes a model directory from an LTX-2.3 checkpoint; a run that was cut continues with the same call.

    Args:
        source: A .safetensors file, a directory of component files, or a Hub repo (`owner/name[/file]`).
        out: The directory to write or to continue.
        text_encoder: Gemma-3: a directory, or a Hub repo (`owner/name[@revision]`).
        quantize: `4`, `8`, `mxfp4`, `mxfp8` or `nvfp4`, for the linears of the transformer's blocks and of Gemma.
        group_size: Weights that share a scale, with `4` or `8`: 32, 64 (default) or 128.
        revision: Branch, tag or commit of the checkpoint's repo.
        variant: `dev` or `distilled`, where the file's name does not tell.
        verify: Hashes and loads everything again at the end.

    Raises:
        UserError: whatever is wrong with the sources or the directory.
    """
    conversion = prepare(source, text_encoder, quantize, group_size, revision, variant)
    return run.convert(conversion, Path(out), verify)


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
