"""What LTX-2.3 takes on disk and in memory at each precision, from the real names and shapes; nothing is downloaded.

    python -m scripts.sizes

makes the headers of the published checkpoint and of Gemma-3 12B (`scripts.make_checkpoint`, sparse files), lets
`convert` plan them at each precision, and prints the tables of `docs/real_model.md` and of the README in Markdown.
Sizes of weights are exact; the first table counts no activations. The second is the plan of a clip of 704x480x97 for
Macs, with what the GPU may use there and `PROGRAM` for the program itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlx_ltxw.convert.plan import Array, ConversionPlan
from mlx_ltxw.convert.quantize import Quantization
from mlx_ltxw.convert.run import prepare
from mlx_ltxw.doctor.fits import table
from mlx_ltxw.machine import Machine
from mlx_ltxw.weights.components import audio_side
from mlx_ltxw.weights.dtype import stays_float32
from mlx_ltxw.weights.header import BITS
from scripts.make_checkpoint import make

GB = 10**9
PRECISIONS = (None, "8", "mxfp8", "4", "mxfp4", "nvfp4")
MACS = (("16 GB", 10.5), ("24 GB", 16), ("32 GB", 22), ("48 GB", 36), ("64 GB and more", 48))
"""Memory, and how much of it macOS lets the GPU use, GB: two thirds to three quarters."""
PROGRAM = 440_000_000
_FLOATS = ("BF16", "F16", "F32")


def in_memory(component: str, arrays: Iterable[Array]) -> int:
    """Bytes of a network on a GPU: bf16, but for what stays fp32 or is packed."""
    total = 0
    for array in arrays:
        bits = BITS[array.dtype]
        if array.dtype in _FLOATS:
            bits = 32 if stays_float32(component, array.name) else 16
        total += array.nbytes * bits // BITS[array.dtype]
    return total


def memory(plan: ConversionPlan, audio_only: bool = False) -> dict[str, int]:
    """Bytes of each network of a plan in memory."""
    return {
        component: in_memory(
            component,
            (
                array
                for entry in entries
                if not audio_only or component != "transformer" or audio_side(entry.name)
                for array in entry.arrays
            ),
        )
        for component, entries in plan.entries.items()
    }


def macs() -> list[str]:
    """The second table: the transformer's blocks that stay in memory, and the peak where all do."""
    rows = ["| Mac's memory | may use | bf16 | `-q 8` | `-q 4` | `--audio-only` |", "|---|---|---|---|---|---|"]
    for name, budget in MACS:
        made: list[dict[str, Any]] = table(Machine("metal", int(budget * GB), int(budget * GB)), PROGRAM)
        clips = [row["clips"] for row in made]
        cells = [_stay(each["704x480x97"]) for each in clips]
        sounds = [each["sound alone"] for each in clips]
        alone = "all" if all(each["blocks"] == each["of"] for each in sounds) else "not all"
        rows.append(f"| {name} | {budget:g} GB | {' | '.join(cells)} | {alone} |")
    return rows


def _stay(clip: dict[str, int]) -> str:
    if clip["blocks"] == clip["of"]:
        return f"all, {clip['peak'] / GB:.1f} GB"
    return f"{clip['blocks']} of {clip['of']}"


def main() -> None:
    rows = ["| `-q` | disk at rest | text encoder | transformer | its audio side alone |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder), "22b", keys_only=True)
        download = [made.checkpoint, *made.gemma.glob("*.safetensors")]
        sizes = [path.stat().st_size / GB for path in download]
        for name in PRECISIONS:
            packing = Quantization.parse(name) if name else None
            plan = prepare(str(made.checkpoint), str(made.gemma), quantization=packing, data=False).plan
            whole, alone = memory(plan), memory(plan, audio_only=True)
            figures = (plan.nbytes, whole["text_encoder"], whole["transformer"], alone["transformer"])
            rows.append(f"| {name or 'none'} | {' | '.join(f'{value / GB:.1f} GB' for value in figures)} |")
    print(f"to download: {sizes[0]:.1f} GB and {sum(sizes[1:]):.1f} GB (Gemma without its vision tower)\n")
    print("\n".join(rows))
    rest = {name: size for name, size in whole.items() if name not in ("text_encoder", "transformer")}
    print("\n".join(["", *macs()]))
    print("\nnot quantised:", ", ".join(f"{name} {size / GB:.2f} GB" for name, size in rest.items()))


if __name__ == "__main__":
    main()
