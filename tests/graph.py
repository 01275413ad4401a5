"""What MLX would compute for some arrays, counted in its graph; nothing is computed."""

import re
from collections import Counter

import mlx.core as mx

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
