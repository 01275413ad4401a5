"""Reads a finished model directory again, to the last byte."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
from tqdm import tqdm

from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.components import COMPONENTS, upsampler_name
from mlx_ltxw.weights.loading import read_arrays
from mlx_ltxw.weights.model_dir import ModelDir


def verify_model(model: ModelDir) -> None:
    """Hashes every file, fits every network to its files, and reads every array through MLX, one at a time.

    Raises:
        UserError: names what differs from the manifest, does not fit, or is not finite.
    """
    total = sum(record.size for record in model.files.values())
    with tqdm(total=total, desc="verifying", unit="B", unit_scale=True, file=sys.stderr, disable=None) as bar:
        model.verify(bar.update)
    components = (*COMPONENTS, *map(upsampler_name, model.upsamplers))
    for component in components:
        model.load(component)  # strict: raises on any mismatch; nothing is computed
    model.load_tokenizer()
    for component in components:
        for file in dict.fromkeys(tensor.path for tensor in model.tensors(component)):
            _check_arrays(file)


def _check_arrays(file: Path) -> None:
    arrays = read_arrays([file])
    for name in list(arrays):
        array = arrays.pop(name)  # dropped again before the next one is read
        if mx.issubdtype(array.dtype, mx.floating) and not mx.isfinite(array).all().item():
            raise UserError(f"{name} in {file} is not finite.", "Convert the checkpoint again.")
        mx.eval(array)
