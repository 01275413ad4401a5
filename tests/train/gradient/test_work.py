"""How much work a training step is for the host, counted, not timed; and its dtypes."""

import dataclasses
from collections import Counter

import mlx.core as mx
import pytest

import tests.reference.transformer as official
from mlx_ltxw.models.ops import fused_back_cuda, fused_cuda, many_cuda, own_cuda
from mlx_ltxw.models.transformer import Transformer, TransformerConfig, Walk
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.gradient import pullbacks, step
from mlx_ltxw.train.gradient.layout import Layout
from tests.graph import described_for_cuda, kernels, operations
from tests.train.clips import objective, small

SMALL = TrainConfig(rank=3, alpha=3.0)


def as_one_operation(self, *, inputs, output_shapes, output_dtypes, **_):
    """In place of a kernel of ours: a CumMin in the graph, of which all outputs are views."""
    done = mx.depends([mx.cummin(mx.array([0.0], output_dtypes[0]))], list(inputs))[0]
    return [mx.broadcast_to(done, shape) for shape in output_shapes]


@pytest.fixture(params=[True, False], ids=["our kernels", "MLX's"])
def ours(request, monkeypatch):
    """Whether the card runs our kernels."""
    for module in (fused_cuda, fused_back_cuda, many_cuda):
        monkeypatch.setattr(module, "working", lambda *_: request.param)
        if hasattr(module, "is_fitting"):
            monkeypatch.setattr(module, "is_fitting", lambda x: True)  # this model's widths are none of a real one
    monkeypatch.setattr(own_cuda.Kernel, "__call__", as_one_operation)
    return request.param


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(
        pullbacks, "_unnormed", lambda x, cotangent, eps: mx.depends([mx.cumsum(x, axis=-1)], [cotangent])[0]
    )
    monkeypatch.setattr(step, "default_dtype", lambda: mx.bfloat16)
    with described_for_cuda(monkeypatch):
        yield


def described(layers, config, tmp_path):
    """The operations of a step of so many blocks, but for the optimizer's."""
    model = Transformer(TransformerConfig.read(official.small_config(layers=layers)))
    model.set_dtype(mx.bfloat16)
    case = small(model, config)
    made = objective(case)
    made._walk = Walk()  # all of it described, nothing submitted
    mx.eval(model.parameters(), made.adapted.parameters(), case.parameters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layout, "flat", lambda self, factors: factors)
        factors, losses = made.gradient(case.parameters, case.group, case.draw, mx.array(0.5))
    return operations(tmp_path / "graph.dot", factors, losses)


def of_a_block(config, tmp_path):
    """The base's last block has no end, since nobody reads it."""
    return described(3, config, tmp_path) - described(2, config, tmp_path)


@pytest.mark.parametrize(
    ("options", "own", "kernels_of_mlx"),
    [({}, (33, 237), 351), ({"compile": False}, (31, 259), 347), ({"gradient_checkpointing": True}, (41, 305), 443)],
    ids=["compiled", "described", "computed again"],
)
def test_kernels_of_a_block(as_on_a_gpu, ours, tmp_path, options, own, kernels_of_mlx):
    """The base's, and those of the adapted sound, there and back. With kernels of ours norms take what is beside them,
    weights are cast together, and the 24 products of the factors' gradients are one."""
    found = kernels(of_a_block(dataclasses.replace(SMALL, **options), tmp_path))
    counted = found["CumMin"], sum(found.values()) - found["CumMin"]
    assert counted == (own if ours else (0, kernels_of_mlx)), Counter(found).most_common()
