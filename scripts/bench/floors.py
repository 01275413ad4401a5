"""The least time that a forward can take: its operations at the rates that this machine reaches, or its bytes.

Operations are counted by hand from the config; the tests hold them to MLX's own graph. A rate is that of one large
product, or of one large attention, as MLX runs it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from mlx_ltxw.models.transformer import TransformerConfig
from scripts.bench.figures import timed


@dataclass(frozen=True)
class Rates:
    """What the machine reaches.

    Attributes:
        products: Operations a second in matrix products.
        attention: In attention.
        memory: Bytes a second, read and written, by one elementwise operation.
    """

    products: float
    attention: float
    memory: float

    @classmethod
    def measured(cls, dtype: mx.Dtype, size: int = 8192) -> Rates:
        """By the best of some runs.

        Args:
            dtype: Of the operands.
            size: Of the square product, and of the tokens that attend; a CPU wants a smaller one.
        """
        a, b = (mx.random.normal((size, size), key=mx.random.key(i)).astype(dtype) for i in range(2))
        heads, width = 16, 128
        q, k, v = (mx.random.normal((1, heads, size, width), key=mx.random.key(i)).astype(dtype) for i in range(3))
        mx.eval(a, b, q, k, v)
        attend = partial(mx.fast.scaled_dot_product_attention, q, k, v, scale=width**-0.5)
        product = min(timed(lambda: a @ b.T, 5, 2))
        attention = min(timed(attend, 5, 2))
        copying = min(timed(lambda: -a, 5, 2))
        return cls(2 * size**3 / product, 4 * heads * size**2 * width / attention, 2 * a.nbytes / copying)


@dataclass(frozen=True)
class Operations:
    """Of one forward.

    Attributes:
        products: Operations in matrix products: two for each multiplication and addition.
        attention: In scores and in weighted sums.
        weights: Numbers in the blocks' matrices.
    """

    products: int
    attention: int
    weights: int

    def seconds(self, rates: Rates, itemsize: int) -> float:
        """The larger of what arithmetic takes and what reading the weights once does."""
        arithmetic = self.products / rates.products + self.attention / rates.attention
        return max(arithmetic, self.weights * itemsize / rates.memory)


def operations(config: TransformerConfig, video: int, audio: int, text: int, layers: int | None = None) -> Operations:
    """Of the blocks of one forward, whose heads and embeddings come to less than a hundredth of that.

    Args:
        config: The transformer's.
        video, audio, text: Tokens.
        layers: Other than the config's.
    """
    v, a = config.video, config.audio
    cross = a.heads * a.head_dim
    products, weights, scores = 0, 0, 0
    for queries, keys, dim, context, inner, heads in (
        (video, video, v.dim, v.dim, v.heads * v.head_dim, v.heads),
        (video, text, v.dim, v.context_dim, v.heads * v.head_dim, v.heads),
        (audio, audio, a.dim, a.dim, cross, a.heads),
        (audio, text, a.dim, a.context_dim, cross, a.heads),
        (video, audio, v.dim, a.dim, cross, a.heads),
        (audio, video, a.dim, v.dim, cross, a.heads),
    ):
        weights += 2 * dim * inner + 2 * context * inner + dim * heads
        products += 2 * (2 * queries * dim * inner + 2 * keys * context * inner + queries * dim * heads)
        scores += 4 * queries * keys * inner
    for tokens, dim in ((video, v.dim), (audio, a.dim)):
        weights += 8 * dim * dim
        products += 16 * tokens * dim * dim
    count = config.layers if layers is None else layers
    return Operations(count * products, count * scores, count * weights)
