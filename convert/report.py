"""The plan as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mlx_ltxw.printing import readable

from .checkpoint import Checkpoint
from .gemma import GemmaFiles
from .plan import ConversionPlan, Entry

_HEAD = f"{'component':<16} {'tensors':>8} {'parameters':>16} {'size in':>10} {'size out':>10}  stored as"


def describe_checkpoint(
    plan: ConversionPlan, checkpoint: Checkpoint, gemma: GemmaFiles | None, variant: str | None
) -> Iterator[str]:
    """Lines that show where everything goes; the last one is `placed N of M tensors`."""
    version = checkpoint.model_version or "of unknown version"
    name = variant or "not told by the name: give {field:variant}"
    yield f"LTX-2.3 checkpoint, model_version {version}, variant {name}"
    yield _HEAD
    for component, entries in plan.entries.items():
        yield _row(component, entries)
    yield _row("total", [entry for entries in plan.entries.values() for entry in entries])
    yield f"{len(plan.shards)} files"
    for reason, names in checkpoint.set_aside.items():
        yield f"set aside {len(names)} tensors: {reason}"
    if checkpoint.scales:
        yield f"{len(checkpoint.scales)} fp8 weights are multiplied by their scales"
    if gemma is None:
        yield "text encoder: not given ({field:text_encoder})"
    elif gemma.dropped:
        yield f"set aside {gemma.dropped} tensors of the text encoder: vision tower and language-model head"
    yield f"placed {plan.placed} of {plan.total} tensors"


def _row(name: str, entries: list[Entry]) -> str:
    parameters = sum(entry.source.elements for entry in entries)
    size_in, size_out = sum(entry.source.nbytes for entry in entries), sum(entry.nbytes for entry in entries)
    counts = Counter(_stored(entry) for entry in entries)
    kinds = ", ".join(f"{kind} x {count}" for kind, count in counts.most_common())
    return f"{name:<16} {len(entries):>8,} {parameters:>16,} {readable(size_in):>10} {readable(size_out):>10}  {kinds}"


def _stored(entry: Entry) -> str:
    if entry.quantization is None:
        return entry.dtype
    q = entry.quantization
    return f"{q.bits}-bit {q.mode} of {q.group_size}" if q.mode == "affine" else q.mode
