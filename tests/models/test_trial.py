"""A kernel of our own that fails is not used: the operations that MLX has go on, with the same numbers."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.models.ops import device, trial, unpack_cuda
from mlx_ltxw.models.ops.cuda import compiler, elementwise, norms, source, turns
from mlx_ltxw.models.ops.trial import close, working
from mlx_ltxw.models.transformer.adaln import added_norms, modulate, modulated_norm
from mlx_ltxw.models.transformer.attention import gate_heads
from mlx_ltxw.models.transformer.rope import turned_norm
from tests.models.test_packed import dense, layer
from tests.numbers import relative_error

WIDTH = 1024


def does_not_compile(*_, **__):
    raise RuntimeError("Failed to compile kernel")


def is_wrong(*_, output_shapes, output_dtypes, **__):
    return [mx.zeros(shape, dtype) for shape, dtype in zip(output_shapes, output_dtypes, strict=True)]


@pytest.fixture(params=[does_not_compile, is_wrong])
def on_cuda(request, monkeypatch):
    """A card on which kernels of ours do not do what they should."""
    monkeypatch.setattr(device, "backend", lambda: "cuda")
    monkeypatch.setattr(compiler, "cuda_kernel", lambda *_, **__: request.param)
    caches = trial.working, source.kernel, norms._kernel, turns._kernel, elementwise._kernel, unpack_cuda._kernel
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_norms_go_on(on_cuda):
    x, scale, shift = (mx.random.normal((1, rows, WIDTH), key=mx.random.key(rows)) for rows in (3, 1, 1))
    wide = np.asarray(x, np.float64)
    normed = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6)
    want = normed * (1 + np.asarray(scale)) + np.asarray(shift)
    assert relative_error(modulated_norm(x, scale, shift, 1e-6), want) < 1e-6
    after, (got,) = added_norms(x, x, shift, [(scale, shift)], 1e-6)
    summed = wide * (1 + np.asarray(shift, np.float64))
    assert relative_error(after, summed) < 1e-6
    again = summed / np.sqrt((summed**2).mean(-1, keepdims=True) + 1e-6)
    assert relative_error(got, again * (1 + np.asarray(scale)) + np.asarray(shift)) < 1e-6
    assert relative_error(modulate(x, scale, shift), wide * (1 + np.asarray(scale)) + np.asarray(shift)) < 1e-6
    logits = x[..., :8]
    gates = 2 / (1 + np.exp(-np.asarray(logits, np.float64)))
    got = gate_heads(x.reshape(1, 3, 8, 128), logits)
    assert relative_error(got, wide.reshape(1, 3, 8, 128) * gates[..., None]) < 1e-6
    angles = mx.random.normal((1, 3, 8, 64), key=mx.random.key(5))
    heads = normed.reshape(1, 3, 8, 2, 64)
    turn = np.exp(1j * np.asarray(angles, np.float64)) * (heads[..., 0, :] + 1j * heads[..., 1, :])
    got = turned_norm(x, mx.ones(WIDTH), 1e-6, mx.cos(angles), mx.sin(angles))
    assert relative_error(got, np.concatenate([turn.real, turn.imag], axis=-1)) < 1e-5


@pytest.mark.parametrize(("group_size", "bits", "mode"), [(64, 8, "affine"), (32, 8, "mxfp8"), (16, 4, "nvfp4")])
def test_quantised_products_go_on(on_cuda, group_size, bits, mode):
    linear = layer(group_size, bits, mode)
    linear.weight, linear.scales = (mx.concatenate([one] * 8) for one in (linear.weight, linear.scales))
    if mode == "affine":
        linear.biases = mx.concatenate([linear.biases] * 8)
    linear.bias = mx.concatenate([linear.bias] * 8)
    assert unpack_cuda.fits(linear.weight, group_size, bits, mode)
    x = mx.random.normal((1, 32, linear.scales.shape[1] * group_size), key=mx.random.key(0))
    want = np.asarray(x, np.float64) @ dense(linear).T + np.asarray(linear.bias)
    assert relative_error(linear(x), want) < 1e-6


def test_a_trial_is_made_once_for_each_variant():
    made = []

    def right(*variant):
        made.append(variant)
        return variant == (1,)

    assert [working(right, 1), working(right, 2), working(right, 1)] == [True, False, True]
    assert made == [(1,), (2,)]


def test_what_is_close():
    """A rounding to bf16 is; a tenth of the values being wrong is not, nor is what is no number."""
    want = mx.random.normal((100,), key=mx.random.key(0))
    assert close(want.astype(mx.bfloat16), want)
    assert not close(mx.where(mx.arange(100) % 10 == 0, 0, want), want)
    assert not close(mx.full((100,), mx.nan), want)
