"""The plan as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mlx_ltxw.printing import readable

from .checkpoint import Checkpoint
from .gemma import Gemma
from .plan import Plan, Step

_HEAD = f"{'component':<16} {'tensors':>8} {'parameters':>16} {'size in':>10} {'size out':>10}  stored as"


def describe(plan: Plan, checkpoint: Checkpoint, gemma: Gemma | None, variant: str | None) -> Iterator[str]:
    """Lines that show where everything goes; the last one is `placed N of M tensors`."""
    version = checkpoint.model_version or "of unknown version"
    yield f"LTX-2.3 checkpoint, model_version {version}, variant {variant or 'not told by the name: give --variant'}"
    yield _HEAD
    for component, steps in plan.steps.items():
        yield _row(component, steps)
    yield _row("total", [step for steps in plan.steps.values() for step in steps])
    yield f"{len(plan.shards)} files"
    for reason, names in checkpoint.set_aside.items():
        yield f"set aside {len(names)} tensors: {reason}"
    if checkpoint.scales:
        yield f"{len(checkpoint.scales)} fp8 weights are multiplied by their scales"
    if gemma is None:
        yield "text encoder: not given (--text-encoder)"
    elif gemma.dropped:
        yield f"set aside {gemma.dropped} tensors of the text encoder: vision tower and language-model head"
    yield f"placed {plan.placed} of {plan.total} tensors"


def _row(name: str, steps: list[Step]) -> str:
    parameters = sum(step.source.elements for step in steps)
    size_in, size_out = sum(step.source.nbytes for step in steps), sum(step.nbytes for step in steps)
    counts = Counter(_stored(step) for step in steps)
    kinds = ", ".join(f"{kind} x {count}" for kind, count in counts.most_common())
    return f"{name:<16} {len(steps):>8,} {parameters:>16,} {readable(size_in):>10} {readable(size_out):>10}  {kinds}"


def _stored(step: Step) -> str:
    if step.quantization is None:
        return step.dtype
    q = step.quantization
    return f"{q.bits}-bit {q.mode} of {q.group_size}" if q.mode == "affine" else q.mode
