"""The networks' door to operations that are computed in different ways on different devices.

A network calls these and asks nothing about the device. On a GPU each is MLX's own operation; where MLX's CPU backend
is slow at that, another way to the same numbers.
"""

from mlx_ltxw.models.ops.activations import gelu_tanh, snake
from mlx_ltxw.models.ops.convolution import conv1d, conv2d, conv3d, in_chunks, paced, windows
from mlx_ltxw.models.ops.device import settle_compile
from mlx_ltxw.models.ops.dot_product import attention, attention_weights, head_groups, heads_first, scores_at_once
from mlx_ltxw.models.ops.packed import packed_back, packed_product

__all__ = [
    "attention",
    "attention_weights",
    "conv1d",
    "conv2d",
    "conv3d",
    "gelu_tanh",
    "head_groups",
    "heads_first",
    "in_chunks",
    "paced",
    "packed_back",
    "packed_product",
    "scores_at_once",
    "settle_compile",
    "snake",
    "windows",
]
