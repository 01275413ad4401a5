"""How much work a training step is for the host, counted, not timed; and its dtypes."""

import dataclasses
from collections import Counter

import mlx.core as mx
import pytest

import tests.reference.transformer as official
from mlx_ltxw.models.ops.cuda import compiler, elementwise, gates_back, many, norms, norms_back, source, turns
from mlx_ltxw.models.transformer import Transformer, TransformerConfig, Walk
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.gradient import pullbacks, step
from mlx_ltxw.train.gradient.layout import Layout
from tests.graph import described_for_cuda, kernels, multiplied, multiplying_as_on_cuda, operations
from tests.train.clips import objective, small

SMALL = TrainConfig(rank=3, alpha=3.0)


def as_one_operation(*_):
    """In place of a kernel of ours: a CumMin in the graph, of which all outputs are views."""

    def start(*, inputs, output_shapes, output_dtypes, **_):
        done = mx.depends([mx.cummin(mx.array([0.0], output_dtypes[0]))], list(inputs))[0]
        return [mx.broadcast_to(done, shape) for shape in output_shapes]

    return start


@pytest.fixture(params=[True, False], ids=["our kernels", "MLX's"])
def ours(request, monkeypatch):
    """Whether the card runs our kernels."""
    for module in (norms, turns, elementwise, norms_back, gates_back, many):
        monkeypatch.setattr(module, "working", lambda *_: request.param)
    monkeypatch.setattr(gates_back, "takes", lambda _: request.param)
    for module in (source, norms_back):
        monkeypatch.setattr(
            module, "takes_width", lambda _: request.param
        )  # this model's widths are none of a real one
    monkeypatch.setattr(elementwise, "LANES", 1)
    monkeypatch.setattr(compiler, "cuda_kernel", as_one_operation)
    caches = source.kernel, norms._kernel, turns._kernel, elementwise._kernel, norms_back._kernel, gates_back._kernel
    caches = *caches, many._cast_kernel, many._outers_kernel
    for cache in caches:
        cache.cache_clear()
    yield request.param
    for cache in caches:
        cache.cache_clear()


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
    [({}, (54, 205), 361), ({"compile": False}, (52, 232), 356), ({"gradient_checkpointing": True}, (69, 272), 461)],
    ids=["compiled", "described", "computed again"],
)
def test_kernels_of_a_block(as_on_a_gpu, ours, tmp_path, options, own, kernels_of_mlx):
    """The base's, and those of the adapted sound, there and back. With kernels of ours norms take what is beside them,
    weights are cast together, and the 24 products of the factors' gradients are one."""
    found = kernels(of_a_block(dataclasses.replace(SMALL, **options), tmp_path))
    counted = found["CumMin"], sum(found.values()) - found["CumMin"]
    assert counted == (own if ours else (0, kernels_of_mlx)), Counter(found).most_common()


def multiplied_in(layers, config):
    """What a step of so many blocks multiplies, by dtypes."""
    model = Transformer(TransformerConfig.read(official.small_config(layers=layers)))
    model.set_dtype(mx.bfloat16)
    case = small(model, config)
    made = objective(case)
    with multiplied() as found:
        made.gradient(case.parameters, case.group, case.draw, mx.array(0.5))
    return found


FORWARDS = 17 - 4 + 2 * 12 + 2 * 3
"""Of the adapted sound: three attentions of five linears and a network of two, but for keys and values of what the base
has read; two factors of 12 adapters; scores and values of three attentions."""
BACKWARDS = 17 + 2 * 12 + 4 * 3 + 2 * 12
"""Through each linear and both of its factors, through attentions, and to the 24 factors themselves; of what goes to
the contexts nothing is computed."""


@pytest.mark.parametrize(
    ("checkpointing", "again"), [(False, 0), (True, FORWARDS + 4)], ids=["", "computed again, contexts too"]
)
def test_dtypes_of_a_block(checkpointing, again, monkeypatch):
    """The base's 34 products are of its weights' dtype, all of the adapted sound's in float32, there and back."""
    multiplying_as_on_cuda(monkeypatch)
    monkeypatch.setattr(step, "default_dtype", lambda: mx.bfloat16)
    config = dataclasses.replace(SMALL, compile=False, gradient_checkpointing=checkpointing)
    found = multiplied_in(3, config) - multiplied_in(2, config)
    assert found == {
        ("bfloat16",): 34, ("attention", "bfloat16"): 6, ("float32",): FORWARDS + BACKWARDS + again,
    }  # fmt: skip
