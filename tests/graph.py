"""What MLX would compute for some arrays, counted in its graph; nothing is computed."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from mlx_ltxw.models.ops import activations, device, dot_product

VIEWS = {
    "Broadcast", "Reshape", "Transpose", "Slice", "ExpandDims", "Squeeze", "StopGradient", "CustomTransforms",
    "Depends", "Unflatten", "Flatten", "Split",
}  # fmt: skip
"""Operations that start no kernel, as a rule."""
_NODE = re.compile(r'label ?= ?"([^"]*)", shape=rectangle')


def operations(file, *outputs):
    """How often each operation occurs.

    Args:
        file: To write the graph to.
        outputs: Arrays or trees of them.
    """
    mx.export_to_dot(str(file), *outputs)
    return Counter(_NODE.findall(file.read_text()))


def kernels(counts):
    """Those that start a kernel."""
    return Counter({name: count for name, count in counts.items() if name not in VIEWS})


@contextmanager
def described_for_cuda(monkeypatch) -> Iterator[None]:
    """Networks describe what they would for CUDA, with one operation, which fuses with nothing, for each of MLX's fast
    ones: Sort for a norm, Partition for an attention. Functions are compiled; what comes of it is to be counted, not
    computed."""
    for module in (device, activations.device, dot_product.device):
        monkeypatch.setattr(module, "slow_exponentials", lambda: False)
        monkeypatch.setattr(module, "on_cpu", lambda: False)
        monkeypatch.setattr(module, "backend", lambda: "cuda")
    monkeypatch.setattr(mx.fast, "rms_norm", lambda x, *_: mx.sort(x))
    monkeypatch.setattr(mx.fast, "layer_norm", lambda x, *_: mx.sort(x))
    monkeypatch.setattr(
        mx.fast, "scaled_dot_product_attention", lambda q, k, v, scale: mx.depends([mx.partition(q, 0)], [k, v])[0]
    )
    mx.enable_compile()
    yield
    mx.disable_compile()
