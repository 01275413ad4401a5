"""Stage 8: the release, converted like any other model, in place of the one that ships with the package; no PyTorch.
`python -m scripts.voice_model.ship --release DIR`."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from mlx_ltxw.convert.run import convert, prepare
from mlx_ltxw.weights.builtin import BUILTIN_MODEL

LIMIT = 25_000_000  # bytes of the model; the adapters come on top


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", type=Path, required=True, help="what `export` wrote")
    arguments = parser.parse_args()
    release: Path = arguments.release
    with tempfile.TemporaryDirectory() as folder:
        job = prepare(str(release / "voice-dev.safetensors"), str(release / "gemma"))
        model = convert(job, Path(folder) / "voice")
        shutil.rmtree(BUILTIN_MODEL, ignore_errors=True)
        shutil.copytree(model.path, BUILTIN_MODEL)
    size = sum(file.stat().st_size for file in BUILTIN_MODEL.rglob("*") if file.is_file())
    adapters = BUILTIN_MODEL / "adapters"
    adapters.mkdir()
    for file in sorted(release.glob("whisper*.safetensors")):
        shutil.copy(file, adapters)
    print(f"{size / 1e6:.2f} MB in {BUILTIN_MODEL}, and {', '.join(file.stem for file in adapters.iterdir())}")
    if size > LIMIT:
        raise SystemExit(f"That is over {LIMIT / 1e6:.0f} MB.")


if __name__ == "__main__":
    main()
