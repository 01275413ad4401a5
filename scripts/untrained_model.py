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

NOTE = (
    "this model is untrained; it shows that everything runs, as coloured noise. "
    "For real clips convert LTX-2.3 (see the README) and give it with -m."
)
STATEMENT = "Its weights are random numbers, made by `python -m scripts.untrained_model`; no data was used."
CHANGES = {
    "transformer.connector_num_layers": 1,
    "mlx_ltxw.note": NOTE,
    "mlx_ltxw.license": "apache-2.0",
    "mlx_ltxw.statement": STATEMENT,
    "mlx_ltxw.generation": {"width": 128, "height": 128, "frames": 97, "steps": 8},
}


def main() -> None:
    """Writes the model over the one that is there."""
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder), "tiny", changes=CHANGES)
        model = convert(prepare(str(made.checkpoint), str(made.gemma)), Path(folder) / "builtin")
        shutil.rmtree(BUILTIN_MODEL, ignore_errors=True)
        shutil.copytree(model.path, BUILTIN_MODEL)
    print(sum(file.stat().st_size for file in BUILTIN_MODEL.rglob("*") if file.is_file()), "bytes")


if __name__ == "__main__":
    main()
