"""What LTX-2.3 takes on disk and in memory at each precision, from the real names and shapes; nothing is downloaded.

    python -m scripts.sizes

makes the headers of the published checkpoint and of Gemma-3 12B (`scripts.make_checkpoint`, sparse files), lets
`convert` plan them at each precision, and prints the table of the README in Markdown. Sizes of weights are exact;
activations are not counted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from mlx_ltxw.convert.plan import Array, ConversionPlan
from mlx_ltxw.convert.quantize import Quantization
from mlx_ltxw.convert.run import prepare
from mlx_ltxw.weights.components import audio_side
from mlx_ltxw.weights.dtype import stays_float32
from mlx_ltxw.weights.header import BITS
from scripts.make_checkpoint import make

GB = 10**9
PRECISIONS = (None, "8", "mxfp8", "4", "mxfp4", "nvfp4")
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
    print("\nnot quantised:", ", ".join(f"{name} {size / GB:.2f} GB" for name, size in rest.items()))


if __name__ == "__main__":
    main()
