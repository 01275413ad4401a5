"""How much work a block is for the host, counted, not timed: kernels, dtypes, traces, submissions."""

import gc
from collections import Counter

import mlx.core as mx
import mlx.nn as nn
import pytest

import tests.reference.transformer as official
from mlx_ltxw.adapter.apply import AdaptedLinear, BlendedAttention
from mlx_ltxw.adapter.branches import LowRankBranch
from mlx_ltxw.models.ops import dot_product
from mlx_ltxw.models.ops.cuda import attention, compiler, elementwise, norms, source, turns
from mlx_ltxw.models.ops.twins import no_gradients
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
from mlx_ltxw.models.transformer.adaln import added_norms
from mlx_ltxw.models.transformer.attention import gate_heads
from mlx_ltxw.models.transformer.rope import turned_norm
from mlx_ltxw.pipeline.networks import lay_together
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


def halved(layers, merged):
    """A model of so many blocks in bf16, and what it is given."""
    model = Transformer(TransformerConfig.read(official.small_config(layers=layers)))
    model.set_dtype(mx.bfloat16)
    if merged:
        lay_together(model)
    mx.eval(model.parameters())
    given = both(model, *streams(model.config))
    narrow = [
        one._replace(latent=one.latent.astype(mx.bfloat16), context=one.context.astype(mx.bfloat16)) for one in given
    ]
    return model, narrow


def of_a_block(tmp_path):
    return described(2, tmp_path) - described(1, tmp_path)


def test_kernels_of_a_block(as_on_a_gpu, tmp_path):
    """34 products (six attentions of five, two networks of two), six attentions, 20 norms, and 46 fused elementwise
    kernels: 12 modulations, 10 sums of table rows, 8 rotations, 8 gated sums, 6 gates of heads, 2 gelus, and none else.
    """
    found = kernels(of_a_block(tmp_path))
    products = found["AddMM"] + found["Matmul"]
    fused = sum(count for name, count in found.items() if name.startswith("Compiled"))
    assert (products, found["Partition"], found["Sort"]) == (34, 6, 20)
    assert fused == 46
    assert sum(found.values()) == 34 + 6 + 20 + fused


@pytest.fixture
def own_kernels(monkeypatch):
    """Kernels of ours, for every width: only their starts, counted by name."""
    starts = Counter()

    def described(name, *_):
        def start(*, inputs, output_shapes, output_dtypes, **_):
            starts[name] += 1
            made = [mx.zeros(shape, dtype) for shape, dtype in zip(output_shapes, output_dtypes, strict=True)]
            return mx.depends(made, inputs)

        return start

    monkeypatch.setattr(compiler, "cuda_kernel", described)
    monkeypatch.setattr(source, "on_cuda", lambda: True)
    monkeypatch.setattr(source, "takes_width", lambda _: True)
    for module in (norms, turns, elementwise, attention):
        monkeypatch.setattr(module, "working", lambda *_: True)
    monkeypatch.setattr(elementwise, "LANES", 1)
    caches = source.kernel, norms._kernel, turns._kernel, elementwise._kernel
    for cache in caches:
        cache.cache_clear()
    yield starts
    for cache in caches:
        cache.cache_clear()


def test_kernels_of_a_block_with_our_own(as_on_a_gpu, own_kernels, tmp_path):
    """A sum and the norms behind it are one kernel, and no table is added up before: beside the 34 products, six
    attentions, four norms of what reads or is the text, and two gelus there are, in each stream: the first norm, one of
    the sum that each of three updates begins with (two results of one norm where the streams read each other), the
    last sum, three gates of heads; the text's modulation; and eight rotations.
    """
    one = described(1, tmp_path)
    begun = Counter(own_kernels)
    found = kernels(described(2, tmp_path) - one)
    ours = own_kernels - begun - begun
    del found["Full"]  # what stands for ours
    assert ours == {
        "norm_11_00": 2, "added_norm_22_77_66": 2, "added_norm_40_44_33": 2,
        "added_norm_88_00_11_22_33": 1, "added_norm_88_22_33_00_11": 1,
        "add_gated_55": 2, "modulate_11_00": 2, "gate_heads": 6, "turned_norm": 8,
    }  # fmt: skip
    assert found["AddMM"] + found["Matmul"] == 34
    assert (found["Partition"], found["Sort"]) == (6, 4)
    assert sum(count for name, count in found.items() if name.startswith("Compiled")) == 2
    assert sum(found.values()) + sum(ours.values()) == 72


@pytest.mark.parametrize("small", [False, True], ids=["cuDNN's attention", "ours"])
def test_kernels_of_a_block_whose_linears_are_merged(as_on_a_gpu, own_kernels, monkeypatch, tmp_path, small):
    """20 products in the place of 34, and nothing is copied that lies among other columns."""
    if not small:
        monkeypatch.setattr(attention, "takes", lambda *_: False)
    monkeypatch.setattr(attention, "_WIDTHS", range(1, 129))
    for module in (turns, attention):
        monkeypatch.setattr(module, "LANES", 1)  # four heads' gates fill no vector

    def counted(layers):
        model, tokens = halved(layers, merged=True)
        own_kernels.clear()
        return operations(tmp_path / "graph.dot", *model(*tokens)), Counter(own_kernels)

    (one, ours_of_one), (two, ours_of_two) = counted(1), counted(2)
    found, ours = kernels(two - one), ours_of_two - ours_of_one
    del found["Full"]
    assert found["AddMM"] + found["Matmul"] == 20
    assert (ours["turned_pair"], ours["norm_pair"]) == (4, 2)
    assert ours["gated_attention"] == (6 if small else 0)
    assert sum(found.values()) + sum(ours.values()) == (46 if small else 52)


@pytest.mark.parametrize("merged", [False, True])
def test_views_of_a_block(as_on_a_gpu, own_kernels, monkeypatch, tmp_path, merged):
    """They start nothing, but MLX goes over each: of a product the turned weight, the bias once for each row, tokens of
    all clips in a row and the result as they were; of six attentions the results as rows; of four norms without a
    rotation the heads. Of merged linears what is not read where it lies would be a view more each.
    """
    monkeypatch.setattr(attention, "_WIDTHS", range(1, 129))
    for module in (turns, attention):
        monkeypatch.setattr(module, "LANES", 1)  # four heads' gates fill no vector

    def described(layers):
        model, tokens = halved(layers, merged)
        with no_gradients():
            return operations(tmp_path / "graph.dot", *model(*tokens))

    found = described(2) - described(1)
    products, norms = (20, 0) if merged else (34, 4)
    assert found["Transpose"] == products
    assert found["Broadcast"] - found["Full"] == products  # one more for each that stands for a kernel of ours
    assert found["Reshape"] == 2 * products + 6 + norms
    assert found["Slice"] == 0


def test_a_batch_of_takes_is_made_by_the_kernels_of_one(own_kernels):
    """They round once where kernels apart round twice: a take among others would be farther from float32."""
    row, angles, weight = mx.zeros((1, 1, 1024)), mx.zeros((1, 3, 8, 64)), mx.zeros(1024)
    for takes in (1, 5):
        x = mx.zeros((takes, 3, 1024))
        added_norms(x, x, row, [(row, row)], 1e-6)
        turned_norm(x, weight, 1e-6, angles, angles)
        gate_heads(x.reshape(takes, 3, 8, 128), mx.zeros((takes, 3, 8)))
        assert own_kernels == {"added_norm_0_0_0": 1, "turned_norm": 1, "gate_heads": 1}
        own_kernels.clear()


def test_attention_of_small_clips_alone(own_kernels):
    """cuDNN is faster on the device, and the only one for float32."""

    def takes(queries, keys, width=64, dtype=mx.bfloat16, contexts=1):
        q, gates = mx.zeros((2, queries, 4, width), dtype), mx.zeros((2, queries, 4), dtype)
        k = mx.zeros((contexts, keys, 4, width), dtype)
        return attention.takes(q, k, k, gates)

    assert takes(468, 1024)
    assert takes(101, 101, width=128, contexts=2)
    assert not takes(1024, 1024)
    assert not takes(101, 4290)
    assert not takes(4290, 101)
    assert not takes(101, 101, dtype=mx.float32)
    assert not takes(101, 101, width=32)
    assert not takes(101, 101, contexts=3)


def test_rows_of_their_own_are_not_for_our_kernels(own_kernels):
    """They have one row for all tokens, or for those of a clip, and one table of angles for all of a batch."""
    x, row = mx.zeros((2, 3, 1024)), mx.zeros((1, 1, 1024))
    assert norms.takes(x, row, (row[0], row))
    assert elementwise.takes(x, row)
    assert norms.takes(x, row, mx.zeros((2, 1, 1024)))
    for own in (mx.zeros((1, 3, 1024)), mx.zeros((2, 3, 1024)), (row[0], mx.zeros((1, 3, 1024)))):
        assert not norms.takes(x, row, own)
        assert not elementwise.takes(x, own)
    assert turns.takes(x, mx.zeros((1, 3, 8, 64)))
    assert not turns.takes(x, mx.zeros((2, 3, 8, 64)))


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
