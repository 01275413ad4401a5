"""Kernels for CUDA by their own source, on a CPU, against float64; their gradients are those of their twins."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.models.ops.columns import Columns
from mlx_ltxw.models.ops.cuda import attention, compiler, elementwise, norms, source, turns
from mlx_ltxw.models.transformer.adaln import add_gated, added_norms, modulate, modulated_norms
from mlx_ltxw.models.transformer.attention import attend_gated, gate_heads
from mlx_ltxw.models.transformer.rope import turned_norm, turned_pair
from tests.cuda import COMPILER, Emulated

WIDTH = 1024
ROUNDED = 2.0**-8
"""Largest error by which one rounding to bf16 may miss, with float32 before it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def emulated(monkeypatch, folder):
    made = Emulated(folder)
    monkeypatch.setattr(compiler, "cuda_kernel", made)
    monkeypatch.setattr(source, "on_cuda", lambda: True)
    for module in (norms, turns, elementwise, attention):
        monkeypatch.setattr(module, "working", lambda *_: True)
    caches = source.kernel, norms._kernel, turns._kernel, elementwise._kernel, attention._kernel
    for cache in caches:
        cache.cache_clear()
    yield made
    for cache in caches:
        cache.cache_clear()


def drawn(*shape, seed, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def wide(x):
    return np.asarray(x.astype(mx.float32), np.float64)


def normed(x, eps=1e-6):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def is_rounded_once(got, want):
    """Each number is that of float64, rounded; sums of squares in float32 move it by little."""
    assert got.dtype == mx.bfloat16
    return (np.abs(wide(got) - want) <= ROUNDED * np.maximum(np.abs(want), 1e-2)).all()


@pytest.mark.skipif(COMPILER is None, reason="no g++")
def test_a_sum_and_two_norms(emulated, monkeypatch):
    """More tokens than blocks of threads; rows of one and of two summands."""
    dtype = mx.bfloat16
    monkeypatch.setattr(norms, "THREADS", 128)
    monkeypatch.setattr(norms, "CORES", 2)
    x, update = (drawn(2, 3, WIDTH, seed=seed, dtype=dtype) for seed in (0, 1))
    scale, shift, other = (drawn(1, 1, WIDTH, seed=seed) for seed in (2, 3, 4))
    table, network = drawn(3, WIDTH, seed=6), drawn(1, 1, 2, WIDTH, seed=7, dtype=dtype)
    row = source.RowPair(table, network, 2, 1)
    after, (first, second) = added_norms(x, update, row, [(scale, shift), (row.apart(), other)], 1e-6)
    both = wide(table)[2] + wide(network)[0, 0, 1]
    summed = wide(x) + wide(update) * both
    assert is_rounded_once(after, summed)
    of_the_sum = normed(wide(after))
    assert is_rounded_once(first, of_the_sum * (1 + wide(scale)) + wide(shift))
    assert is_rounded_once(second, of_the_sum * (1 + both) + wide(other))
    (alone,) = modulated_norms(after, [(scale, shift)], 1e-6)
    assert mx.array_equal(alone, first)
    assert mx.array_equal(add_gated(x, update, row), after)
    assert {name.split("_")[0] for name in emulated.started} == {"added", "norm", "add"}


@pytest.mark.skipif(COMPILER is None, reason="no g++")
def test_rows_of_each_clip(emulated, monkeypatch):
    """As training has them, whose clips have noise levels of their own; a text's too."""
    dtype = mx.bfloat16
    monkeypatch.setattr(norms, "THREADS", 128)
    monkeypatch.setattr(norms, "CORES", 5)  # not as many for each clip
    x, update = (drawn(2, 3, WIDTH, seed=seed, dtype=dtype) for seed in (0, 1))
    gate, scale, shift = (drawn(2, 1, WIDTH, seed=seed) for seed in (2, 3, 4))
    after, (got,) = added_norms(x, update, gate, [(scale, shift)], 1e-6)
    assert is_rounded_once(after, wide(x) + wide(update) * wide(gate))
    assert is_rounded_once(got, normed(wide(after)) * (1 + wide(scale)) + wide(shift))
    assert mx.array_equal(add_gated(x, update, gate), after)
    assert is_rounded_once(modulate(x, scale, shift), wide(x) * (1 + wide(scale)) + wide(shift))
    assert emulated.started == ["added_norm_clip_clip_clip", "add_gated_clip", "modulate_clip_clip"]


@pytest.mark.skipif(COMPILER is None, reason="no g++")
def test_a_norm_and_a_rotation(emulated):
    dtype = mx.bfloat16
    x, weight = drawn(2, 3, WIDTH, seed=0, dtype=dtype), drawn(WIDTH, seed=1, dtype=dtype)
    angles = drawn(1, 3, 8, 64, seed=2)
    cos, sin = mx.cos(angles).astype(dtype), mx.sin(angles).astype(dtype)
    got = turned_norm(x, weight, 1e-6, cos, sin)
    heads = (normed(wide(x)) * wide(weight)).reshape(2, 3, 8, 2, 64)
    turned = (wide(cos) + 1j * wide(sin)) * (heads[..., 0, :] + 1j * heads[..., 1, :])
    assert is_rounded_once(got, np.concatenate([turned.real, turned.imag], axis=-1))
    assert emulated.started == ["turned_norm"]


@pytest.mark.skipif(COMPILER is None, reason="no g++")
def test_elementwise(emulated):
    """Of a text's modulation, of gates of heads, and gelu; the last group of threads has nothing to do in part."""
    dtype = mx.bfloat16
    x = drawn(2, 3, WIDTH, seed=0, dtype=dtype)
    table, network = drawn(1, WIDTH, seed=1), drawn(1, 1, WIDTH, seed=2, dtype=dtype)
    shift = drawn(1, 1, WIDTH, seed=3)
    want = wide(x) * (1 + wide(table) + wide(network)) + wide(shift)
    assert is_rounded_once(modulate(x, (table, network), shift), want)
    logits = drawn(2, 3, 16, seed=4, dtype=dtype)
    heads = x.reshape(2, 3, 16, 64)
    gates = 2 / (1 + np.exp(-wide(logits)))
    assert is_rounded_once(gate_heads(heads, logits), wide(heads) * gates[..., None])
    y = 4 * wide(x)
    gelu = y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    assert is_rounded_once(elementwise.gelu(4 * x), gelu)
    assert emulated.started == ["modulate_00_0", "gate_heads", "gelu"]


@pytest.mark.skipif(COMPILER is None, reason="no g++")
def test_attention(emulated):
    """Of two queries' batches that share a context, in tiles that are not full; weights are rounded, as cuDNN's are."""
    dtype = mx.bfloat16
    queries, gates = drawn(2, 67, 2, 64, seed=0, dtype=dtype), drawn(2, 67, 2, seed=1, dtype=dtype)
    keys, values = (drawn(1, 70, 2, 64, seed=seed, dtype=dtype) for seed in (2, 3))
    got = attend_gated(4 * queries, keys, values, gates, 64**-0.5)
    scores = np.einsum("bthd,shd->bhts", 4 * wide(queries), wide(keys)[0]) / 8
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("bhts,shd->bthd", weights / weights.sum(-1, keepdims=True), wide(values)[0])
    want = mixed * 2 / (1 + np.exp(-wide(gates)))[..., None]
    assert emulated.started == ["gated_attention"]
    assert np.abs(wide(got) - want).max() < 2 * ROUNDED * np.abs(want).max()
    assert np.sqrt(((wide(got) - want) ** 2).mean() / (want**2).mean()) < ROUNDED / 2


def zeros(*_, output_shapes, output_dtypes, **__):
    return [mx.zeros(shape, dtype) for shape, dtype in zip(output_shapes, output_dtypes, strict=True)]


@pytest.mark.parametrize("which", ["norms", "sum", "modulation", "heads", "turn"])
def test_gradients_are_those_of_the_twins(emulated, monkeypatch, which):
    """Whatever a kernel gives: here nothing."""
    x, update = (drawn(1, 3, WIDTH, seed=seed) for seed in (0, 1))
    scale, shift, gate = (drawn(1, 1, WIDTH, seed=seed) for seed in (2, 3, 4))
    table, slope, weight = drawn(1, WIDTH, seed=5), drawn(1, 3, WIDTH, seed=6), drawn(WIDTH, seed=7)
    angles, logits = drawn(1, 3, 8, 64, seed=8), drawn(1, 3, 8, seed=9)

    def call(x, update, gate, table):
        if which == "norms":
            made = modulated_norms(x, [((table, gate), shift), (shift, gate)], 1e-6)
        elif which == "sum":
            after, made = added_norms(x, update, (table, gate), [(scale, shift), (gate, scale)], 1e-6)
            made = [after, *made]
        elif which == "modulation":
            row = source.RowPair(table, gate[:, :, None], 0, 0)
            made = [modulate(x, row, shift), add_gated(x, update, row)]
        elif which == "heads":
            made = [gate_heads(x.reshape(1, 3, 8, 128), logits)]
        else:
            made = [turned_norm(x, weight, 1e-6, mx.cos(angles), mx.sin(angles))]
        return sum(mx.sum(slope * (number + 1) * one.reshape(x.shape)) for number, one in enumerate(made))

    given = x, update, gate, table
    with monkeypatch.context() as apart:
        apart.setattr(source, "on_cuda", lambda: False)
        want = mx.grad(call, argnums=(0, 1, 2, 3))(*given)
        assert float(call(*given)) != 0
    monkeypatch.setattr(compiler, "cuda_kernel", lambda *_, **__: zeros)
    source.kernel.cache_clear()
    assert float(call(*given)) == 0
    for got, expected in zip(mx.grad(call, argnums=(0, 1, 2, 3))(*given), want, strict=True):
        assert mx.allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(COMPILER is None, reason="no g++")
@pytest.mark.parametrize("turned", [True, False])
def test_queries_and_keys_among_other_columns(emulated, turned):
    """Of two products, each with other columns beside; more keys than queries, and none of them is copied."""
    dtype, head = mx.bfloat16, 128
    asked, read = drawn(2, 3, WIDTH + 32, seed=0, dtype=dtype), drawn(1, 5, 2 * WIDTH, seed=1, dtype=dtype)
    queries, keys = Columns(asked, 32, WIDTH), Columns(read, WIDTH, WIDTH)
    weights = drawn(WIDTH, seed=2, dtype=dtype), drawn(WIDTH, seed=3, dtype=dtype)
    angles = [drawn(1, tokens, 8, 64, seed=4) for tokens in (3, 5)]
    ropes = [(mx.cos(each).astype(dtype), mx.sin(each).astype(dtype)) if turned else None for each in angles]
    made = turned_pair(queries, keys, weights, 1e-6, head, *ropes)
    for got, part, weight, rope in zip(made, (queries, keys), weights, ropes, strict=True):
        heads = (normed(wide(part.apart())) * wide(weight)).reshape(*part.shape[:2], 8, 2, 64)
        want = heads[..., 0, :] + 1j * heads[..., 1, :]
        if rope is not None:
            want = want * (wide(rope[0]) + 1j * wide(rope[1]))
        assert is_rounded_once(got, np.concatenate([want.real, want.imag], axis=-1))
        if rope is not None:
            assert mx.array_equal(got, turned_norm(part.apart(), weight, 1e-6, *rope))
    assert emulated.started == (["turned_pair", "turned_norm", "turned_norm"] if turned else ["norm_pair"])
    assert turns._pair_works(dtype, WIDTH, dtype, head if turned else 0)


@pytest.mark.skipif(COMPILER is None, reason="no g++")
def test_values_and_gates_among_other_columns(emulated):
    """To the bit what arrays of their own give, in attention and in gates alone."""
    dtype = mx.bfloat16
    queries, keys = drawn(1, 9, 2, 64, seed=0, dtype=dtype), drawn(1, 70, 2, 64, seed=1, dtype=dtype)
    read, asked = drawn(1, 70, 264, seed=2, dtype=dtype), drawn(1, 9, 136, seed=3, dtype=dtype)
    values, gates = Columns(read, 136, 128), Columns(asked, 131, 2)
    apart = values.apart().reshape(1, 70, 2, 64), mx.contiguous(gates.apart())
    assert mx.array_equal(attend_gated(queries, keys, values, gates, 0.125), attend_gated(queries, keys, *apart, 0.125))
    assert mx.array_equal(gate_heads(queries, gates), gate_heads(queries, apart[1]))
    assert emulated.started == ["gated_attention"] * 2 + ["gate_heads"] * 2
