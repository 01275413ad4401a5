"""Gradients by hand against MLX's own of the same modules, and of a whole block; on a CPU's path and on a GPU's."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

import tests.reference.transformer as official
from mlx_ltxw.adapter.apply import AdaptedLinear, attach
from mlx_ltxw.adapter.branches import LowRankBranch
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.models.ops import device, dot_product
from mlx_ltxw.models.transformer import Modality, Shared, Transformer, TransformerConfig
from mlx_ltxw.models.transformer.attention import Attention, Read
from mlx_ltxw.models.transformer.feed_forward import FeedForward
from mlx_ltxw.models.transformer.update import Attending
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.gradient import pullbacks
from mlx_ltxw.train.gradient.audio_stream import audio_block
from mlx_ltxw.train.gradient.fresh import fresh_adapter
from mlx_ltxw.train.gradient.layout import Layout, set_factors
from tests.train.clips import objective, small

TOLERANCE = 2e-5
HEADS, WIDTH = 4, 16


@pytest.fixture(params=[True, False], ids=["cpu", "gpu"], autouse=True)
def path(request, monkeypatch):
    monkeypatch.setattr(device, "slow_exponentials", lambda: request.param)
    monkeypatch.setattr(dot_product, "_SCORES", 4 * 2 * 5 * 7 * 3)  # three heads of four at a time
    return request.param


def random(seed, *shape):
    return mx.random.normal(shape, key=mx.random.key(seed))


def rope(seed, tokens):
    angle = random(seed, 1, tokens, HEADS, WIDTH // 2)
    return mx.cos(angle), mx.sin(angle)


def filled(module):
    """Every parameter random, weights about as wide as a trained model's."""
    values = tree_flatten(module.parameters())
    return module.update(
        tree_unflatten([(name, 0.2 * random(i, *value.shape)) for i, (name, value) in enumerate(values)])
    )


def adapted_attention(context_dim):
    attention = filled(Attention(24, context_dim, HEADS, WIDTH, 1e-6, gated=True))
    for i, name in enumerate(("to_q", "to_k", "to_v", "to_out")):
        linear = attention.to_out[0] if name == "to_out" else attention[name]
        out, inner = linear.weight.shape
        wrapped = AdaptedLinear(linear, [LowRankBranch(random(i, 3, inner), random(9 + i, out, 3), 0.7)])
        if name == "to_out":
            attention.to_out[0] = wrapped
        else:
            attention[name] = wrapped
    attention.freeze()
    attention.unfreeze(keys=["lora_A", "lora_B"], strict=False)
    return attention


def branches(attention):
    linears = (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
    return [linear.branches[0] for linear in linears]


def assert_close(got, want):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) <= TOLERANCE * np.linalg.norm(want)


def factor_gradients(module, loss):
    """By MLX, of the branches' factors."""
    gradients = nn.value_and_grad(module, lambda: loss(module))()[1]
    return dict(tree_flatten(gradients))


@pytest.mark.parametrize("case", ["itself", "text", "text shared", "video", "video for two"])
def test_attention(case):
    """To itself with a rotation; to a text without; to a video with rotations of its own, also one for two clips."""
    own = case == "itself"
    attention = adapted_attention(24 if own else 20)
    x = random(1, 2, 5, 24)
    context = None if own else random(2, 1 if case == "video for two" else 2, 7, 20)
    turns = {} if "text" in case else {"rope": rope(3, 5), "key_rope": None if own else rope(4, 7)}
    bare = attention.to_k.base, attention.to_v.base
    shared = Read(*(linear(context) for linear in bare)) if case == "text shared" else None
    slope = random(5, 2, 5, 24)
    found = pullbacks.Gradients()
    got, back = pullbacks.attend(attention, x, found, Attending(context, shared, **turns))
    to_x = back(slope)
    found.multiplied()
    assert_close(got, attention(x, context, **turns))
    _, (want,) = mx.vjp(lambda x: attention(x, context, **turns), [x], [slope])
    assert_close(to_x, want)
    factors = factor_gradients(attention, lambda module: mx.sum(slope * module(x, context, **turns)))
    for name, branch in zip(("to_q", "to_k", "to_v", "to_out.0"), branches(attention), strict=True):
        for factor, gradient in zip("AB", found[id(branch)], strict=True):
            assert_close(gradient, factors[f"{name}.branches.0.lora_{factor}"])


@pytest.mark.parametrize("bits", [0, 8])
def test_feed_forward(bits):
    """Frozen, so it has no gradient but that of its input."""
    network = filled(FeedForward(32, 64))
    if bits:
        nn.quantize(network, 32, bits)
    x, slope = random(1, 2, 5, 32), random(2, 2, 5, 32)
    found = pullbacks.Gradients()
    got, back = pullbacks.feed_forward(network, x, found)
    _, (want,) = mx.vjp(network, [x], [slope])
    assert_close(got, network(x))
    assert_close(back(slope), want)
    assert not found


def test_bf16_activations():
    """Every gradient in the dtype of what it is of, those of the factors in fp32."""
    attention = adapted_attention(20)
    attention.set_dtype(mx.bfloat16)
    x, context = random(1, 2, 5, 24).astype(mx.bfloat16), random(2, 2, 7, 20).astype(mx.bfloat16)
    found = pullbacks.Gradients()
    value, back = pullbacks.attend(attention, x, found, Attending(context))
    assert value.dtype == back(x).dtype == mx.bfloat16
    found.multiplied()
    assert {gradient.dtype for pair in found.values() for gradient in pair} == {mx.float32}


@pytest.mark.parametrize("picture", [True, False])
def test_block(picture):
    """Against MLX's gradient of `Block.audio_stream`."""
    section = official.small_config(layers=1, video_head_dim=24)
    model = filled(Transformer(TransformerConfig.read(section)))
    config = TrainConfig(rank=3, alpha=6.0)
    case = small(model, config, seed=7)
    adapted = attach(model, [(fresh_adapter(model, config), Strength())])
    set_factors(case.layout.factors(case.parameters), case.layout.branches(adapted))
    adapted.freeze()
    adapted.unfreeze(keys=["lora_A", "lora_B"], strict=False)

    def modality(name):
        sigma = mx.array([0.3, 0.8])
        tokens, context, rotary = (getattr(case.group, f"{name}{part}") for part in ("", "_context", "_rotary"))
        return Modality(tokens, sigma, sigma[:, None], context, rotary)

    video, audio = modality("video"), modality("audio")
    shared = next(model.watch(video, audio)) if picture else Shared()
    state = adapted.audio_state(audio, video if picture else None)
    x, block = random(1, 2, 7, model.config.audio.dim), adapted.transformer_blocks[0]
    slope, turn = random(2, *x.shape), video.rotary.cross
    found = pullbacks.Gradients()
    got, back = audio_block(block, x, shared, turn, state, found)
    assert_close(got, block.audio_stream(x, state, shared, turn))
    _, (want,) = mx.vjp(lambda x: block.audio_stream(x, state, shared, turn), [x], [slope])
    assert_close(back(slope), want)
    factors = factor_gradients(adapted, lambda m: mx.sum(
        slope * m.transformer_blocks[0].audio_stream(x, state, shared, turn)
    ))  # fmt: skip
    paths = Layout.of(fresh_adapter(model, config))[0].paths
    for path, branch in zip(paths, case.layout.branches(adapted), strict=True):
        for factor, gradient in zip("AB", found.get(id(branch), ()), strict=False):
            assert_close(gradient, factors[f"{path}.branches.0.lora_{factor}"])
    assert len(found) == (12 if picture else 8)


def test_a_step_is_the_same_on_both_paths(path):
    """To fp32's rounding; the other tests of gradients run on the CPU's."""
    model = filled(Transformer(TransformerConfig.read(official.small_config(layers=2, video_head_dim=24))))
    case = small(model, TrainConfig(rank=3, alpha=6.0, gradient_checkpointing=True))
    made = objective(case)
    flat, losses = made.gradient(case.parameters, case.group, case.draw, mx.array(0.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "slow_exponentials", lambda: not path)
        other, other_losses = made.gradient(case.parameters, case.group, case.draw, mx.array(0.5))
        mx.eval(other, other_losses)
    assert_close(flat, other)
    assert_close(losses, other_losses)
