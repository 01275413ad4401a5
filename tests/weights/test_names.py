"""Names and sizes for people."""

import pytest

from mlx_ltxw.printing import readable
from mlx_ltxw.weights.names import grouped, natural_key


def test_natural_order():
    names = ["b.10.x", "b.2.x", "a", "b.2.a", "b"]
    assert sorted(names, key=natural_key) == ["a", "b", "b.2.a", "b.2.x", "b.10.x"]


def test_groups_lose_no_name():
    names = ["blocks.0.to_q.bias", "blocks.1.to_q.bias", "blocks.1.to_k.bias", "head.bias"]
    assert grouped(names) == ["blocks.*.to_q.bias (2 tensors)", "blocks.1.to_k.bias", "head.bias"]


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (46_148_472_534, "46.15 GB"), (2.5e6, "2.5 MB")]
)
def test_sizes(size, text):
    assert readable(size) == text
