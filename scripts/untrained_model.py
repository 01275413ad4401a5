"""Rebuilds the tiny untrained model that ships with the package: made, then converted like any other.

    python -m scripts.untrained_model
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mlx_ltxw.convert.run import convert, prepare
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from scripts.make_checkpoint import make

CHANGES = {
    "transformer.connector_num_layers": 1,
    "mlx_ltxw.note": "this model is untrained; it shows that everything runs, as coloured noise. For real clips convert "
    "LTX-2.3 (see the README) and give it with -m.",
    "mlx_ltxw.generation": {"width": 128, "height": 128, "frames": 49, "steps": 8},
}


def main() -> None:
    """Writes the model over the one that is there."""
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder), "tiny", changes=CHANGES)
        model = convert(prepare(str(made.checkpoint), str(made.gemma)), Path(folder) / "model")
        shutil.rmtree(BUILTIN_MODEL, ignore_errors=True)
        shutil.copytree(model.path, BUILTIN_MODEL)
    print(sum(file.stat().st_size for file in BUILTIN_MODEL.rglob("*") if file.is_file()), "bytes")


if __name__ == "__main__":
    main()
