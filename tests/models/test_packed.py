"""Quantised linears against the dense ones that they stand for, in both ways of multiplying."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_ltxw.adapter.apply import AdaptedLinear
from mlx_ltxw.adapter.branches import LowRankBranch
from mlx_ltxw.models.ops import packed, unpack_cuda
from mlx_ltxw.models.packed import PackedLinear, quantize
from mlx_ltxw.weights.loading import quantize_layers
from tests.numbers import relative_error

FORMATS = [(64, 8, "affine"), (32, 4, "affine"), (128, 2, "affine"), (64, 3, "affine"), (64, 6, "affine"),
           (32, 8, "mxfp8"), (32, 4, "mxfp4"), (16, 4, "nvfp4")]  # fmt: skip
WAYS = {"unpacked": 1, "as it is": None}
IN, OUT, ROWS = 256, 96, (2, 5)


def layer(group_size, bits, mode, bias=True):
    network = nn.Sequential(nn.Linear(IN, OUT, bias=bias))
    network.layers[0].weight = mx.random.normal((OUT, IN), key=mx.random.key(1))
    if bias:
        network.layers[0].bias = mx.random.normal((OUT,), key=mx.random.key(2))
    quantize(network, lambda *_: {"group_size": group_size, "bits": bits, "mode": mode})
    assert type(network.layers[0]) is PackedLinear
    return network.layers[0]


def dense(packed_layer):
    """(out, in) float64, of MLX's own unpacking."""
    given = packed_layer.weight, packed_layer.scales, packed_layer.get("biases")
    whole = mx.dequantize(*given, packed_layer.group_size, packed_layer.bits, mode=packed_layer.mode)
    return np.asarray(whole.astype(mx.float32), np.float64)


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request, monkeypatch):
    monkeypatch.setattr(packed, "UNPACKED_FROM", dict.fromkeys(packed.UNPACKED_FROM, request.param))
    return request.param


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("group_size", "bits", "mode"), FORMATS)
def test_product_and_its_gradient(way, group_size, bits, mode, bias):
    linear = layer(group_size, bits, mode, bias)
    x, slope = (mx.random.normal((*ROWS, width), key=mx.random.key(width)) for width in (IN, OUT))
    (got,), (to_x,) = mx.vjp(linear, [x], [slope])
    want = np.asarray(x, np.float64) @ dense(linear).T + (np.asarray(linear.bias) if bias else 0)
    want_to_x = np.asarray(slope, np.float64) @ dense(linear)
    assert relative_error(got, want) < 1e-6
    assert relative_error(to_x, want_to_x) < 1e-6
    assert relative_error(packed.packed_back(linear, slope), want_to_x) < 1e-6
    assert relative_error(packed.packed_back(linear, slope, x), want_to_x + np.asarray(x)) < 1e-6


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize(("group_size", "bits", "mode"), FORMATS)
def test_half_precision_is_as_exact_as_a_dense_product_of_it(monkeypatch, group_size, bits, mode, dtype):
    monkeypatch.setattr(packed, "UNPACKED_FROM", {"cpu": 1, "cuda": 1, "metal": 1})
    linear = layer(group_size, bits, mode)
    linear.set_dtype(dtype)
    x = mx.random.normal((*ROWS, IN), key=mx.random.key(0)).astype(dtype)
    got = linear(x)
    want = np.asarray(x.astype(mx.float32), np.float64) @ dense(linear).T + np.asarray(linear.bias.astype(mx.float32))
    assert got.dtype == dtype
    assert relative_error(got.astype(mx.float32), want) < {mx.bfloat16: 6e-3, mx.float16: 1e-3}[dtype]


def test_adapter_beside_it_is_trained(way):
    """`mx.grad` goes through the packed layer to the factors, and no further."""
    linear = layer(32, 4, "affine")
    a, b, slope = (
        mx.random.normal(shape, key=mx.random.key(len(shape))) for shape in ((3, IN), (OUT, 3), (*ROWS, OUT))
    )
    x = mx.random.normal((*ROWS, IN), key=mx.random.key(0))
    adapted = AdaptedLinear(linear, [LowRankBranch(a, b, 0.5)])
    linear.freeze()
    _, found = nn.value_and_grad(adapted, lambda x: mx.sum(slope * adapted(x)))(x)
    (branch,) = found["branches"]
    flat, cotangent = np.asarray(x, np.float64).reshape(-1, IN), np.asarray(slope, np.float64).reshape(-1, OUT)
    assert relative_error(branch["lora_B"], 0.5 * cotangent.T @ (flat @ np.asarray(a).T)) < 1e-6
    assert relative_error(branch["lora_A"], 0.5 * (cotangent @ np.asarray(b)).T @ flat) < 1e-6
    assert "base" not in found or not found["base"]


@pytest.mark.parametrize("backend", ["cpu", "cuda", "metal"])
def test_few_rows_and_metal_use_the_packed_weight(backend, monkeypatch):
    """By the table, whatever this machine is; both ways stand for one number."""
    calls = []
    real = mx.quantized_matmul
    monkeypatch.setattr(packed.device, "backend", lambda: backend)
    monkeypatch.setattr(packed.unpack_cuda, "fits", lambda *_: False)
    monkeypatch.setattr(mx, "quantized_matmul", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    linear = layer(64, 8, "affine")
    for rows, expected in ((1, True), (64, backend == "metal")):
        calls.clear()
        mx.eval(linear(mx.ones((1, rows, IN))))
        assert bool(calls) == expected


def test_networks_are_filled_with_them():
    network = nn.Sequential(nn.Linear(IN, OUT), nn.Linear(OUT, OUT))
    quantize_layers(network, {"layers.0": {"group_size": 64, "bits": 8, "mode": "affine"}})
    assert [type(each) for each in network.layers] == [PackedLinear, nn.Linear]


@pytest.mark.parametrize(("group_size", "bits", "mode"), FORMATS)
def test_which_packings_the_kernel_takes(group_size, bits, mode):
    """Codes that lie whole in a word, in groups of sixteen, for whole groups of threads."""
    weight = mx.zeros((64, IN * bits // 32), mx.uint32)
    assert unpack_cuda.fits(weight, group_size, bits, mode) == (bits not in (3, 6))
    assert not unpack_cuda.fits(weight[:63], group_size, bits, mode)


@pytest.mark.skipif(mx.default_device() != mx.gpu or mx.metal.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize(("group_size", "bits", "mode"), [one for one in FORMATS if one[1] in (2, 4, 8)])
def test_kernel_unpacks_as_mlx_does(group_size, bits, mode, dtype):
    codes = mx.random.randint(0, 2**31 - 1, (64, IN * bits // 32), key=mx.random.key(0)).astype(mx.uint32)
    count = (64, IN // group_size)
    scales = mx.random.normal(count) if mode == "affine" else mx.random.randint(96, 126, count).astype(mx.uint8)
    biases = mx.random.normal(count) if mode == "affine" else None
    want = mx.dequantize(codes, scales, biases, group_size, bits, mode=mode, dtype=mx.float32)
    got = unpack_cuda.unpack(codes, scales, biases, group_size, bits, mode, dtype)
    assert got.dtype == dtype
    assert relative_error(got.astype(mx.float32), np.asarray(want)) < {mx.float32: 1e-6}.get(dtype, 3e-3)
