"""How much work a block is for the host, counted, not timed: kernels, dtypes, traces, submissions."""

import gc
from collections import Counter

import mlx.core as mx
import mlx.nn as nn
import pytest

import tests.reference.transformer as official
from mlx_ltxw.adapter.apply import AdaptedLinear, BlendedAttention
from mlx_ltxw.adapter.branches import LowRankBranch
from mlx_ltxw.models.ops import dot_product, fused_cuda
from mlx_ltxw.models.transformer import (
    NO_SKIPS,
    Compiled,
    Skips,
    Transformer,
    TransformerConfig,
    Walk,
    audio_forward,
    joint_forward,
)
from mlx_ltxw.models.transformer.adaln import modulated_norm
from mlx_ltxw.models.transformer.rope import turned_norm
from mlx_ltxw.tree import share
from tests.graph import described_for_cuda, kernels, operations
from tests.models.test_transformer import both, streams
from tests.numbers import relative_error


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    with described_for_cuda(monkeypatch):
        yield


def described(layers, tmp_path):
    """The operations of a forward of so many blocks."""
    model = Transformer(TransformerConfig.read(official.small_config(layers=layers)))
    mx.eval(model.parameters())
    return operations(tmp_path / "graph.dot", *model(*both(model, *streams(model.config))))


def of_a_block(tmp_path):
    return described(2, tmp_path) - described(1, tmp_path)


def test_kernels_of_a_block(as_on_a_gpu, tmp_path):
    """34 products (six attentions of five, two networks of two), six attentions, 22 norms, and 46 fused elementwise
    kernels: 12 modulations, 10 sums of table rows, 8 rotations, 8 gated sums, 6 gates of heads, 2 gelus, and none else.
    """
    found = kernels(of_a_block(tmp_path))
    products = found["AddMM"] + found["Matmul"]
    fused = sum(count for name, count in found.items() if name.startswith("Compiled"))
    assert (products, found["Partition"], found["Sort"]) == (34, 6, 22)
    assert fused == 46
    assert sum(found.values()) == 34 + 6 + 22 + fused


def test_kernels_of_a_block_with_fused_norms(as_on_a_gpu, tmp_path, monkeypatch):
    """Each fused norm takes a norm and the modulation or rotation behind it: 10 and 8 kernels fewer."""
    monkeypatch.setattr(fused_cuda, "takes_modulated", lambda *_: True)
    monkeypatch.setattr(fused_cuda, "takes_turned", lambda *_: True)
    monkeypatch.setattr(fused_cuda, "modulated_norm", lambda x, *_: mx.arctan(x))
    monkeypatch.setattr(fused_cuda, "turned_norm", lambda x, w, cos, *_: mx.arcsinh(x).reshape(*cos.shape[:3], -1))
    found = kernels(of_a_block(tmp_path))
    assert (found["ArcTan"], found["ArcSinh"], found["Sort"]) == (10, 8, 4)
    assert sum(found.values()) == 34 + 6 + 22 + 46 - 18


def test_a_batch_of_takes_is_made_by_the_kernels_of_one(as_on_a_gpu, tmp_path, monkeypatch):
    """Fused norms round once where kernels apart round twice: a take among others would be farther from float32."""
    monkeypatch.setattr(fused_cuda, "working", lambda *_: True)
    monkeypatch.setattr(fused_cuda, "modulated_norm", lambda x, *_: mx.arctan(x))
    monkeypatch.setattr(
        fused_cuda, "turned_norm", lambda x, w, cos, *_: mx.arcsinh(x).reshape(len(x), *cos.shape[1:3], -1)
    )
    rows, angles, found = mx.zeros((1, 1, 1024)), mx.zeros((1, 3, 8, 64)), {}
    weight = mx.zeros(1024)
    for takes in (1, 5):
        x = mx.zeros((takes, 3, 1024))
        mx.eval(x, weight, rows, angles)
        norms = modulated_norm(x, rows, rows, 1e-6), turned_norm(x, weight, 1e-6, angles, angles)
        found[takes] = kernels(operations(tmp_path / "graph.dot", *norms))
    assert found[5] == found[1] == {"ArcTan": 1, "ArcSinh": 1}


def test_rows_of_their_own_are_not_for_the_fused_norm(as_on_a_gpu, monkeypatch):
    """It has one scale and shift for all tokens of a clip, and one table of angles for all of a batch."""
    monkeypatch.setattr(fused_cuda, "working", lambda *_: True)
    x, row = mx.zeros((2, 3, 1024)), mx.zeros((1, 1, 1024))
    assert fused_cuda.takes_modulated(x, row, row)
    of_a_clip = mx.zeros((2, 1, 1024))
    assert fused_cuda.takes_modulated(x, of_a_clip, of_a_clip)
    for own in (of_a_clip, mx.zeros((1, 3, 1024)), (row, row)):
        assert not fused_cuda.takes_modulated(x, own, row)
    assert fused_cuda.takes_turned(x, mx.zeros((1, 3, 8, 64)))
    assert not fused_cuda.takes_turned(x, mx.zeros((2, 3, 8, 64)))


def test_every_product_and_attention_is_in_the_activations_dtype(monkeypatch):
    """A float32 table or sigma on the way would make a product of bfloat16 a slow one of float32."""
    model = Transformer(TransformerConfig.read(official.small_config(layers=1)))
    model.set_dtype(mx.bfloat16)
    block = model.transformer_blocks[0]
    for name in [name for name in block if "table" in name]:
        block[name] = block[name].astype(mx.float32)
    config = model.config
    arrays = streams(config)
    video, audio = both(model, *arrays)
    video, audio = (
        one._replace(latent=one.latent.astype(mx.bfloat16), context=one.context.astype(mx.bfloat16))
        for one in (video, audio)
    )
    seen, linear, attend = Counter(), nn.Linear.__call__, dot_product.attention

    def product(self, x):
        seen[str(x.dtype), str(self.weight.dtype)] += 1
        return linear(self, x)

    def attention(q, k, v, scale):
        seen[tuple(str(x.dtype) for x in (q, k, v))] += 1
        return attend(q, k, v, scale=scale)

    monkeypatch.setattr(nn.Linear, "__call__", product)
    monkeypatch.setattr("mlx_ltxw.models.ops.attention", attention)
    model(video, audio)
    assert set(seen) == {(str(mx.bfloat16),) * 2, (str(mx.bfloat16),) * 3}
    assert seen[(str(mx.bfloat16),) * 3] == 6


class Blocks:
    """Counts how often a block's own code runs; products alone are inside, for which the CPU compiles nothing."""

    def __init__(self):
        self.calls = 0

    def method(self, block, x, extra, done):
        self.calls += 1
        assert isinstance(block.first, nn.Linear | AdaptedLinear)
        return block.second(block.first(x)), extra


def two_linears(seed, scale=None):
    block = nn.Module()
    block.first, block.second = nn.Linear(8, 8), nn.Linear(8, 8)
    for linear, key in zip((block.first, block.second), mx.random.split(mx.random.key(seed)), strict=True):
        linear.weight = mx.random.normal((8, 8), key=key)
    if scale is not None:
        a, b = mx.random.normal((2, 8), key=mx.random.key(seed)), mx.random.normal((8, 2), key=mx.random.key(seed))
        block.first = AdaptedLinear(block.first, [LowRankBranch(a, b, scale)])
    return block


@pytest.fixture
def traced():
    mx.enable_compile()
    yield Compiled()
    mx.disable_compile()


def test_one_trace_serves_all_blocks_of_a_kind(traced):
    """With each block's own arrays; another setting, another shape or another tree is traced anew."""
    blocks = Blocks()
    x = mx.random.normal((3, 8), key=mx.random.key(9))
    for seed in range(4):
        block = two_linears(seed)
        got, extra = traced(blocks.method, block, x, None)
        assert extra is None
        assert relative_error(got, block.second(block.first(x))) < 1e-6
    assert blocks.calls == 1
    for number, scale in enumerate((0.5, 2.0, 0.5, 2.0)):
        block = two_linears(10 + number, scale)
        got, _ = traced(blocks.method, block, x, None)
        assert relative_error(got, block.second(block.first(x))) < 1e-6
    assert blocks.calls == 3
    traced(blocks.method, two_linears(0), x[:2], None)
    assert blocks.calls == 4


def test_an_array_that_is_replaced_is_seen(traced):
    blocks, block, x = Blocks(), two_linears(0), mx.ones((3, 8))
    traced(blocks.method, block, x, None)
    block.first.weight = block.first.weight * 2
    got, _ = traced(blocks.method, block, x, None)
    assert relative_error(got, block.second(block.first(x))) < 1e-6
    assert blocks.calls == 1


def test_a_blended_attention_is_called_as_it_is(traced):
    blocks = Blocks()
    block = two_linears(0)
    block.third = BlendedAttention.__new__(BlendedAttention)
    nn.Module.__init__(block.third)
    for _ in range(2):
        traced(blocks.method, block, mx.ones((3, 8)), None)
    assert blocks.calls == 2


def test_compiled_forwards_are_traced_once(as_on_a_gpu):
    """Three blocks, two passes and one with a skip: two traces of the step and one of the texts."""
    model = Transformer(TransformerConfig.read(official.small_config(layers=3)))
    video, audio = both(model, *streams(model.config))
    calls, block = Counter(), type(model.transformer_blocks[0])
    call, read = block.__call__, block.read_texts
    call_and_read = Compiled()

    def counting(self, **given):
        calls["step"] += 1
        return call(self, **given)

    def counting_read(self, *given):
        calls["texts"] += 1
        return read(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "__call__", counting)
        patch.setattr(block, "read_texts", counting_read)
        for _ in range(2):
            forward = joint_forward(model, video, audio, call=call_and_read)
            Walk().together([(forward, NO_SKIPS), (forward, Skips(video_self=frozenset({1})))])
    assert calls == {"step": 2, "texts": 1}


def test_audio_alone_is_traced_once(as_on_a_gpu):
    model = Transformer(TransformerConfig.read(official.small_config(layers=3)), with_video=False)
    _, audio = both(model, *streams(model.config))
    calls, block, call = Counter(), type(model.transformer_blocks[0]), Compiled()
    stream = block.audio_stream

    def counting(self, *given):
        calls["step"] += 1
        return stream(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "audio_stream", counting)
        for _ in range(2):
            forward = audio_forward(model, audio, call=call)
            Walk().together([(forward, NO_SKIPS), (forward, Skips(audio_self=frozenset({1})))])
    assert calls == {"step": 2}


@pytest.mark.parametrize("name", ["modulated", "turned"])
def test_gradient_through_a_fused_norm(monkeypatch, name):
    """Is that of the separate kernels, by finite differences of which the others have been tested."""
    x, scale, shift = (mx.random.normal((1, 3, 16), key=mx.random.key(i)) for i in range(3))
    scale, shift, slope = scale[:, :1], shift[:, :1], mx.random.normal((1, 3, 16), key=mx.random.key(7))
    angles = mx.random.normal((1, 3, 2, 4), key=mx.random.key(5))
    weight = mx.random.normal((16,), key=mx.random.key(6))

    def call(x):
        if name == "modulated":
            return mx.sum(slope * modulated_norm(x, scale, shift, 1e-6))
        return mx.sum(slope * turned_norm(x, weight, 1e-6, mx.cos(angles), mx.sin(angles)).reshape(x.shape))

    want = mx.grad(call)(x)
    monkeypatch.setattr(fused_cuda, "takes_modulated", lambda *_: True)
    monkeypatch.setattr(fused_cuda, "takes_turned", lambda *_: True)
    monkeypatch.setattr(fused_cuda, "modulated_norm", lambda x, *_: mx.zeros_like(x))
    monkeypatch.setattr(fused_cuda, "turned_norm", lambda x, *_: mx.zeros((1, 3, 2, 8)))
    assert float(call(x)) == 0
    assert relative_error(mx.grad(call)(x), want) < 1e-6


def test_share_keeps_what_a_kind_is_made_of():
    block = two_linears(0, 0.5)
    compiled = Compiled()
    assert compiled._kind(block) == compiled._kind(share(block))
    assert compiled._kind(block) != compiled._kind(two_linears(0, 0.25))


def test_blocks_that_are_gone_are_forgotten(traced):
    """Streamed ones come and go all the time."""
    blocks = Blocks()
    for seed in range(5):
        block = two_linears(seed)
        traced(blocks.method, block, mx.ones((3, 8)), None)
    del block
    gc.collect()
    assert not traced._kinds
    assert blocks.calls == 1
