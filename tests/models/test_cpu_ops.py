"""The CPU's own operations against PyTorch's, forward and backward."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch

from mlx_ltxw.models.ops import attention, conv2d, convolution, device, dot_product, exponentials, gelu_tanh
from tests.numbers import relative_error


@pytest.mark.parametrize("heads_together", ["all", "some", "one"])
@pytest.mark.parametrize("shapes", [((1, 4, 7, 8), (1, 4, 9, 8)), ((2, 3, 1, 5), (2, 3, 1, 5)), ((1, 2, 33, 16),) * 2])
def test_output_and_gradients_equal_pytorch(shapes, heads_together, monkeypatch):
    if heads_together != "all":
        one_head = 4 * shapes[0][0] * shapes[0][2] * shapes[1][2]
        monkeypatch.setattr(dot_product, "_SCORES", 3 * one_head if heads_together == "some" else 1)
    draw = np.random.default_rng(0)
    queries, (keys, values) = draw.standard_normal(shapes[0]), draw.standard_normal((2, *shapes[1]))
    arrays = [x.astype(np.float32) for x in (queries, keys, values, draw.standard_normal(shapes[0]))]
    tensors = [torch.from_numpy(x).double().requires_grad_() for x in arrays]
    want = torch.nn.functional.scaled_dot_product_attention(*tensors[:3], scale=0.3)
    (want * tensors[3]).sum().backward()
    inputs = [mx.array(x) for x in arrays]
    assert relative_error(attention(*inputs[:3], 0.3), want.detach()) < 1e-6
    gradients = mx.grad(lambda q, k, v: mx.sum(attention(q, k, v, 0.3) * inputs[3]), argnums=(0, 1, 2))(*inputs[:3])
    for got, tensor in zip(gradients, tensors, strict=False):
        assert np.abs(np.asarray(got) - tensor.grad.numpy()).max() < 1e-5


def test_large_scores():
    """Shifted by the greatest, so nothing overflows; what is far below it vanishes."""
    queries = mx.array([100.0, 1e20]).reshape(1, 2, 1, 1)
    keys = mx.array([[1.0, 0.99, -1.0], [-1.0, -1.0, -1.0]]).reshape(1, 2, 3, 1)
    got = np.asarray(attention(queries, keys, mx.broadcast_to(mx.eye(3), (1, 2, 3, 3)), 1.0))
    e = np.exp(-1)
    assert got[0, 0, 0] == pytest.approx([1 / (1 + e), e / (1 + e), 0], abs=1e-5)
    assert got[0, 1, 0] == pytest.approx([1 / 3] * 3)


def test_powers_of_two():
    """From one down to the smallest normal number, and no further."""
    x = np.concatenate([np.linspace(-126, 0, 100_001), [-1e20, -np.inf]]).astype(np.float32)
    got = np.asarray(exponentials.exp2(mx.array(x)), np.float64)
    want = np.exp2(np.maximum(x.astype(np.float64), -126))
    assert np.abs(got / want - 1).max() < 3e-7


def test_half_precision_in_and_out():
    x = mx.random.normal((1, 2, 5, 8)).astype(mx.bfloat16)
    assert attention(x, x, x, 0.3).dtype == mx.bfloat16


@pytest.mark.parametrize("on_cpu", [True, False])
def test_gelu_equals_pytorch(on_cpu, monkeypatch):
    """Far out too, where a power of two is infinite."""
    monkeypatch.setattr(device, "slow_exponentials", lambda: on_cpu)
    values = np.concatenate([np.linspace(-8, 8, 999), [-1e4, -300, -30, 30, 300, 1e4]]).astype(np.float32)
    tensor = torch.from_numpy(values).double().requires_grad_()
    want = torch.nn.functional.gelu(tensor, approximate="tanh")
    want.sum().backward()
    x = mx.array(values)
    assert np.asarray(gelu_tanh(x)) == pytest.approx(want.detach().numpy(), abs=2e-6, rel=1e-6)
    gradient = mx.grad(lambda x: mx.sum(gelu_tanh(x)))(x)
    assert np.asarray(gradient) == pytest.approx(tensor.grad.numpy(), abs=2e-6)
    assert gelu_tanh(x.astype(mx.bfloat16)).dtype == mx.bfloat16


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("piece", [1, 250, 2**20])
def test_a_convolution_tap_by_tap(monkeypatch, stride, size, piece):
    """Against PyTorch's; what CUDA takes in float32, where cuDNN asks for more memory than there is."""
    draw = np.random.default_rng(3)
    layer = nn.Conv2d(6, 5, size, stride=stride)
    x = draw.standard_normal((2, 11, 9, 6), np.float32)
    monkeypatch.setattr(device, "greedy_convolutions", lambda dtype: True)
    monkeypatch.setattr(convolution, "PIECE_BY_TAPS", piece)  # elements: a row, a few, all of them
    ours = np.array(conv2d(mx.array(x), layer))
    weight = torch.from_numpy(np.array(layer.weight)).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2), weight, torch.from_numpy(np.array(layer.bias)), stride=stride
    )
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=1e-5)
