"""How tokens lie over machines, and which a machine computes beside its own."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.models.transformer.spread import Spread
from mlx_ltxw.world import Turns


class OneOf:
    """A machine whose gathers give what it and those before it have said, when it is the last."""

    def __init__(self, rank, size, said):
        self.rank, self.size, self._said = rank, size, said

    def gather(self, x):
        self._said.append(x)
        return mx.stack(self._said if len(self._said) == self.size else [x] * self.size)


@pytest.mark.parametrize("least", [1, 5, 9, 10, 30])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_what_is_computed_twice_is_gathered_once(size, least):
    tokens = mx.arange(2 * 10 * 3).reshape(2, 10, 3)
    said = []
    for rank in range(size):
        spread = Spread(Turns(OneOf(rank, size, said)), 10, least)
        own = spread.own(tokens)
        assert own.shape[1] == max(spread.counts[rank], min(10, least))
        assert np.array_equal(own, tokens[:, spread.window])
        whole = spread.whole(own)
    assert np.array_equal(whole, tokens)  # in the last one's hands
    assert spread.own(tokens[:, :1]).shape[1] == 1
