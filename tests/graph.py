"""What MLX would compute for some arrays, counted in its graph; nothing is computed."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import pytest

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


def multiplying_as_on_cuda(monkeypatch):
    """Networks multiply what they would on CUDA, by MLX's own operations."""
    for module in (device, activations.device, dot_product.device):
        monkeypatch.setattr(module, "slow_exponentials", lambda: False)
        monkeypatch.setattr(module, "on_cpu", lambda: False)
        monkeypatch.setattr(module, "backend", lambda: "cuda")


@contextmanager
def described_for_cuda(monkeypatch) -> Iterator[None]:
    """Networks describe what they would for CUDA, with one operation, which fuses with nothing, for each of MLX's fast
    ones: Sort for a norm, Partition for an attention. Functions are compiled; what comes of it is to be counted, not
    computed."""
    multiplying_as_on_cuda(monkeypatch)
    monkeypatch.setattr(mx.fast, "rms_norm", lambda x, *_: mx.sort(x))
    monkeypatch.setattr(mx.fast, "layer_norm", lambda x, *_: mx.sort(x))
    monkeypatch.setattr(
        mx.fast, "scaled_dot_product_attention", lambda q, k, v, scale: mx.depends([mx.partition(q, 0)], [k, v])[0]
    )
    mx.enable_compile()
    yield
    mx.disable_compile()


_MULTIPLYING = {
    "matmul": 2, "addmm": 3, "quantized_matmul": 2, "gather_mm": 2, "inner": 2, "outer": 2, "tensordot": 2,
    "conv1d": 2, "conv2d": 2, "conv3d": 2, "conv_general": 2, "conv_transpose1d": 2, "conv_transpose2d": 2,
    "conv_transpose3d": 2,
}  # fmt: skip
"""Functions of MLX that multiply, and how many arguments are to be of one dtype; of packed weights the first alone."""


@contextmanager
def multiplied() -> Iterator[Counter]:
    """Counts what is multiplied, convolved and attended, by dtypes: `{("bfloat16",): 34}`; those of an attention are
    under `("attention", "bfloat16")`. Nothing is evaluated meanwhile."""
    found = Counter()

    def dtypes(arrays):
        return (*sorted({str(array.dtype).rpartition(".")[2] for array in arrays if array.dtype != mx.uint32}),)

    def counting(function, number, *what):
        def call(*given, **options):
            found[(*what, *dtypes(given[:number]))] += 1
            return function(*given, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mx.array, "__matmul__", counting(mx.array.__matmul__, 2))
        for name, number in _MULTIPLYING.items():
            patch.setattr(mx, name, counting(getattr(mx, name), number))
        attention = mx.fast.scaled_dot_product_attention
        patch.setattr(mx.fast, "scaled_dot_product_attention", counting(attention, 3, "attention"))
        patch.setattr(mx, "einsum", None)  # whoever begins to use it is to count it here
        for name in ("eval", "async_eval"):
            patch.setattr(mx, name, lambda *_: None)
        yield found
