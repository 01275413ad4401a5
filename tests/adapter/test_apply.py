"""Adapters beside a model's linears: exact where exactness is promised, the official sum elsewhere."""

import dataclasses
import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten
from safetensors.torch import save_file as save_torch

from mlx_ltxw.adapter.apply import (
    AdaptedLinear,
    adapt,
    adapted_linears,
    attach,
    round_factors,
    set_gates,
)
from mlx_ltxw.adapter.branches import DoRABranch, LowRankBranch
from mlx_ltxw.adapter.deltas import DoRA, LowRank, change
from mlx_ltxw.adapter.formats import Adapter, read
from mlx_ltxw.adapter.names import WHISPER_MODULES, kind
from mlx_ltxw.adapter.placing import match, place
from mlx_ltxw.adapter.strength import Strength, parse_strength
from mlx_ltxw.errors import UserError
from mlx_ltxw.models.transformer import Transformer, TransformerConfig
from mlx_ltxw.tree import linears, share
from tests.adapter.helpers import (
    TARGETS,
    factors,
    forward,
    inputs,
    model_pair,
    official_file,
    reference_forward,
    save,
    shapes,
)
from tests.numbers import relative_error


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    model, reference = model_pair()
    folder = tmp_path_factory.mktemp("adapters")
    first = factors(shapes(reference), seed=1)
    second = factors(shapes(reference), rank=2, seed=2)
    adapters = [read(official_file(folder / f"{i}.safetensors", p)) for i, p in enumerate((first, second))]
    return model, adapters, (first, second), inputs()


def official_sum(arrays, parts):
    """The official model's output with every `strength * B A` in its weights, computed in fp64 first."""
    _, reference = model_pair()
    for pairs, strength in parts:
        for name, (a, b) in pairs.items():
            value = strength(name) if callable(strength) else strength
            delta = torch.from_numpy(b).double() @ torch.from_numpy(a).double() * value
            weight = reference.get_submodule(name).weight
            weight.data = (weight.data.double() + delta).float()
    return reference_forward(reference, arrays)


def errors(got, want):
    return max(relative_error(g, w) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("strength", [1.0, 0.3, -0.7, 1.5])
def test_strength(world, strength):
    model, adapters, pairs, arrays = world
    got = forward(adapt(model, [(adapters[0], Strength(strength))]), arrays)
    assert errors(got, official_sum(arrays, [(pairs[0], strength)])) < 1e-5


def test_strength_per_module_and_several_adapters(world):
    model, adapters, pairs, arrays = world

    def by_module(name):
        return 0.5 if "video_to_audio" in name else 0.0 if "audio_attn2" in name else 0.25 if "to_k" in name else 1.0

    strength = parse_strength("audio_attn2=0,video_to_audio_attn=0.5,audio_attn1.to_k=0.25")
    assert {p: strength.of(p) for p in TARGETS} == {p: by_module(p) for p in TARGETS}
    adapted = adapt(model, [(adapters[0], strength), (adapters[1], Strength(0.8))])
    assert errors(forward(adapted, arrays), official_sum(arrays, [(pairs[0], by_module), (pairs[1], 0.8)])) < 1e-5
    assert len(adapted_linears(adapt(model, [(adapters[0], strength)]))) == 16  # modules of strength 0 stay bare


def test_strength_for_a_module_it_does_not_change(world):
    model, adapters, _, _ = world
    with pytest.raises(UserError, match="changes no module named audio_ff"):
        adapt(model, [(adapters[0], parse_strength("audio_ff=1"))])


def test_base_is_untouched_and_every_array_shared(world):
    model, adapters, _, arrays = world
    before = dict(tree_flatten(model.parameters()))
    base = forward(model, arrays)
    adapted = adapt(model, [(adapters[0], Strength())])
    changed = forward(adapted, arrays)
    assert all(np.array_equal(a, b) for a, b in zip(base, forward(model, arrays), strict=True))
    after = dict(tree_flatten(model.parameters()))
    assert all(after[name] is array for name, array in before.items())
    inside = dict(tree_flatten(adapted.parameters()))
    assert all(inside[n if n in inside else n[: n.rindex(".")] + ".base" + n[n.rindex(".") :]] is a
               for n, a in before.items())  # fmt: skip
    assert relative_error(changed[1], base[1]) > 1e-2
    assert not adapted_linears(model)


def test_freezing_a_clone_leaves_the_base_trainable(world):
    model, adapters, _, _ = world
    adapted = adapt(model, [(adapters[0], Strength())])
    adapted.freeze()
    assert len(tree_flatten(model.trainable_parameters())) == len(tree_flatten(model.parameters()))
    for linear in adapted_linears(adapted).values():
        linear.branches[0].unfreeze()
    names = {name.rsplit(".", 1)[-1] for name, _ in tree_flatten(adapted.trainable_parameters())}
    assert names == {"lora_A", "lora_B"}


def test_gradients_reach_the_factors(world):
    """d/dB of a sum of outputs, against PyTorch."""
    draw = np.random.default_rng(0)
    w, a, b = (draw.standard_normal(s).astype(np.float32) for s in ((6, 5), (2, 5), (6, 2)))
    x = draw.standard_normal((3, 5)).astype(np.float32)
    base = nn.Linear(5, 6, bias=False)
    base.weight = mx.array(w)
    root = nn.Sequential(base)
    adapter = Adapter("t", "official", {"layers.0": LowRank(mx.array(a), mx.array(b), 0.5)})
    adapted = attach(root, [(adapter, Strength())])
    adapted.layers[0].base.freeze()
    _, gradients = nn.value_and_grad(adapted, lambda m: (m(mx.array(x)) ** 2).sum())(adapted)
    ta, tb = (torch.from_numpy(v).requires_grad_() for v in (a, b))
    ((torch.from_numpy(x) @ (torch.from_numpy(w) + 0.5 * tb @ ta).T) ** 2).sum().backward()
    got = gradients["layers"][0]["branches"][0]
    assert np.allclose(got["lora_A"], ta.grad, rtol=1e-5, atol=1e-4)
    assert np.allclose(got["lora_B"], tb.grad, rtol=1e-5, atol=1e-4)
    assert "base" not in gradients["layers"][0] or not tree_flatten(gradients["layers"][0]["base"])


def test_fresh_adapter_of_zeros_changes_nothing_to_the_bit(world):
    model, adapters, _, arrays = world
    zeros = {p: LowRank(d.a, mx.zeros_like(d.b)) for p, d in adapters[0].deltas.items()}
    fresh = Adapter("fresh", "official", zeros)
    got, base = forward(attach(model, [(fresh, Strength())]), arrays), forward(model, arrays)
    assert all(np.array_equal(g, b) for g, b in zip(got, base, strict=True))
    with pytest.raises(UserError, match="changes nothing"):
        place(fresh, model)
    path = next(iter(zeros))
    bias = mx.zeros(zeros[path].shape[0])
    with pytest.raises(UserError, match="changes nothing"):
        place(dataclasses.replace(fresh, biases={path: bias}), model)
    place(dataclasses.replace(fresh, biases={path: mx.where(mx.arange(len(bias)) == 1, 0.1, bias)}), model)


def test_what_a_module_lacks_is_named(world):
    """Only a transformer of sound alone may lack the video's modules without a word."""
    _, adapters, _, _ = world
    path = next(path for path in adapters[0].targets if "video_to_audio_attn" in path)
    adapter = Adapter("a", "official", {path: adapters[0].deltas[path]})
    found = match(adapter, nn.Sequential(nn.Linear(64, 32)))
    assert found.unplaced == {path: "this model has no such module"}
    assert found.left_out == ()


@pytest.mark.parametrize(("mode", "bits", "group"), [("affine", 4, 32), ("affine", 8, 32), ("mxfp4", 4, 32)])
def test_quantised_base_keeps_its_packed_weights(mode, bits, group):
    """Beside a quantised base, the sum equals the dequantised weight plus the change."""
    mx.random.seed(0)
    root = nn.Sequential(nn.Linear(64, 32))
    nn.quantize(root, group, bits, mode=mode)
    base = root.layers[0]
    draw = np.random.default_rng(3)
    a, b = (mx.array(draw.standard_normal(s).astype(np.float32)) for s in ((4, 64), (32, 4)))
    adapter = Adapter("q", "official", {"layers.0": LowRank(a, b, 0.5)})
    adapted = attach(root, [(adapter, Strength(0.5))])
    assert adapted.layers[0].base.weight is base.weight
    x = mx.array(draw.standard_normal((5, 64)).astype(np.float32))
    dense = mx.dequantize(base.weight, base.scales, base.get("biases"), group, bits, mode=mode).astype(mx.float32)
    want = np.asarray(x, np.float64) @ (np.asarray(dense, np.float64) + 0.25 * np.asarray(b @ a, np.float64)).T
    assert relative_error(adapted(x), want + np.asarray(base.bias)) < 1e-5


def test_shape_of_a_quantised_base_is_checked():
    root = nn.Sequential(nn.Linear(64, 32))
    nn.quantize(root, 32, 4)
    fits = Adapter("q", "official", {"layers.0": LowRank(mx.ones((2, 64)), mx.ones((32, 2)))})
    wrong = Adapter("q", "official", {"layers.0": LowRank(mx.ones((2, 32)), mx.ones((32, 2)))})
    assert match(fits, root).placed == ("layers.0",)
    assert "32 by 32, the model's is 32 by 64" in match(wrong, root).unplaced["layers.0"]


def test_an_adapter_of_another_model_gets_a_sentence_and_no_page():
    root = nn.Sequential(*[nn.Linear(64, 32) for _ in range(60)])
    sizes = [3, *range(4, 24), *[24] * 39]  # sixty layers, of which 39 have one reason and each other its own
    pairs = {f"layers.{n}": LowRank(mx.ones((2, size)), mx.ones((32, 2))) for n, size in enumerate(sizes)}
    with pytest.raises(UserError) as refused:
        place(Adapter("q", "official", pairs), root)
    text = refused.value.message
    assert "layers.21, layers.22, layers.23, and 36 more (it changes a weight of 32 by 24, the model's is" in text
    assert text.endswith("; and 20 more for other reasons.")
    assert len(text) < 400


@pytest.mark.parametrize("quantised", [False, True])
def test_real_peft_dora(tmp_path, quantised):
    """PEFT's own DoRA with trained lengths; on a quantised base the lengths are those of the dequantised weight."""
    from peft import LoraConfig, get_peft_model

    model, reference = model_pair()
    targets = [name for name in TARGETS if "video_to_audio" not in name]
    if quantised:
        nn.quantize(model, 32, 8, class_predicate=lambda path, module: path in targets)
        for name in targets:
            q = linears(model)[name]
            dense = mx.dequantize(q.weight, q.scales, q.biases, 32, 8)
            reference.get_submodule(name).weight.data = torch.from_numpy(np.array(dense))
    wrapped = get_peft_model(reference, LoraConfig(r=3, lora_alpha=6, target_modules=targets, use_dora=True))
    draw = torch.Generator().manual_seed(3)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw) * 0.2
        if "magnitude" in name:
            parameter.data = parameter.data * (0.7 + 0.6 * torch.rand(parameter.shape, generator=draw))
    wrapped.save_pretrained(tmp_path)
    adapter = read(tmp_path / "adapter_model.safetensors")
    arrays = inputs()
    got = forward(adapt(model, [(adapter, Strength())]), arrays)
    with torch.no_grad():
        want = reference_forward(wrapped.base_model.model, arrays)
    assert errors(got, want) < 1e-5


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_comfyui_dora_scale(tmp_path, columns, strength):
    """`dora_scale` by ComfyUI's formula, worked in PyTorch: rows by the base's length, columns by the changed one's."""
    model, reference = model_pair()
    draw = torch.Generator().manual_seed(4)
    tensors = {}
    for name in TARGETS:
        module = reference.get_submodule(name)
        weight = module.weight.data
        out, into = weight.shape
        down, up = torch.randn(3, into, generator=draw) * 0.2, torch.randn(out, 3, generator=draw) * 0.2
        moved = weight + (2.0 / 3) * up @ down
        lengths = moved.norm(dim=0, keepdim=True) if columns else weight.norm(dim=1, keepdim=True)
        scale = lengths * (0.7 + 0.6 * torch.rand(lengths.shape, generator=draw))
        module.weight.data = weight + strength * (moved * scale / lengths - weight)
        spelled = f"diffusion_model.{name}"
        tensors |= {f"{spelled}.lora_down.weight": down, f"{spelled}.lora_up.weight": up}
        tensors |= {f"{spelled}.alpha": torch.tensor(2.0), f"{spelled}.dora_scale": scale}
    save_torch(tensors, tmp_path / "a.safetensors")
    arrays = inputs()
    got = forward(adapt(model, [(read(tmp_path / "a.safetensors"), Strength(strength))]), arrays)
    assert errors(got, reference_forward(reference, arrays)) < 1e-5


def test_whole_differences_and_biases(tmp_path):
    model, reference = model_pair()
    draw = torch.Generator().manual_seed(4)
    tensors = {}
    for i, name in enumerate(TARGETS):
        module = reference.get_submodule(name)
        diff = torch.randn(module.weight.shape, generator=draw) * 0.1
        bias = torch.randn(module.bias.shape, generator=draw) * 0.1
        if i % 3 != 1:
            module.weight.data += 0.5 * diff
            tensors[f"diffusion_model.{name}.diff"] = diff
        if i % 3 != 2:
            module.bias.data += 0.5 * bias
            tensors[f"diffusion_model.{name}.diff_b"] = bias
    save_torch(tensors, tmp_path / "a.safetensors")
    adapter, arrays = read(tmp_path / "a.safetensors"), inputs()
    assert place(adapter, model).summary.startswith("placed 24 of 24")
    got = forward(adapt(model, [(adapter, Strength(0.5))]), arrays)
    assert errors(got, reference_forward(reference, arrays)) < 1e-5


def test_bf16_activations_stay_bf16():
    draw = np.random.default_rng(0)
    a, b = (mx.array(draw.standard_normal(s).astype(np.float32)) for s in ((4, 64), (32, 4)))
    base = nn.Linear(64, 32)
    base.set_dtype(mx.bfloat16)
    adapted = attach(nn.Sequential(base), [(Adapter("a", "o", {"layers.0": LowRank(a, b)}), Strength())])
    assert adapted(mx.ones((2, 64), mx.bfloat16)).dtype == mx.bfloat16


@pytest.mark.parametrize("length", [None, "rows", "base_rows", "columns"])
def test_gate_scales_each_tokens_own_addition(length):
    """Strength in time, of a LoRA and of every DoRA: a gate of 1 is all of the change, 0 none, 0.5 half of it."""
    draw = np.random.default_rng(0)
    a, b = (mx.array(draw.standard_normal(s).astype(np.float32)) for s in ((4, 64), (32, 4)))
    base, delta = nn.Linear(64, 32), LowRank(a, b)
    if length:
        delta = DoRA(delta, mx.array(draw.uniform(1, 2, 64 if length == "columns" else 32).astype(np.float32)), length)
    adapted = AdaptedLinear(base, attach(nn.Sequential(base), [(Adapter("a", "o", {"layers.0": delta}),
                                                                Strength())]).layers[0].branches)  # fmt: skip
    x = mx.array(draw.standard_normal((2, 3, 64)).astype(np.float32))
    full, bare = adapted(x), base(x)
    weight = np.asarray(base.weight, np.float64) + np.asarray(change(delta, base.weight), np.float64)
    assert relative_error(full, np.asarray(x, np.float64) @ weight.T + np.asarray(base.bias)) < 1e-5
    adapted.set_gate(mx.array([[0.0], [0.5], [1.0]]))
    gated = adapted(x)
    assert mx.array_equal(gated[:, 0], bare[:, 0])
    assert mx.array_equal(gated[:, 2], full[:, 2])
    assert relative_error(gated[:, 1], 0.5 * (full[:, 1] + bare[:, 1])) < 1e-6
    for first, here in ((0, slice(0, 2)), (1, slice(1, 3)), (2, slice(1, 3))):  # of several machines, the last two
        adapted.set_gate(mx.array([[0.0], [0.5], [1.0]]), first)
        assert relative_error(adapted(x[:, here]), gated[:, here]) < 1e-6
    assert "_gate" not in dict(tree_flatten(adapted.parameters()))
    adapted.set_gate(None)
    assert mx.array_equal(adapted(x), full)


def test_gates_reach_the_linears_by_their_tokens(world):
    """Audio gates of 0 on every token leave what the video's keys and values carry; with theirs, nothing."""
    model, adapters, pairs, arrays = world
    adapted = adapt(model, [(adapters[0], Strength())])
    set_gates(adapted, audio=mx.zeros((7, 1)))
    ungated = ("video_to_audio_attn.to_k", "video_to_audio_attn.to_v")
    want = official_sum(arrays, [(pairs[0], lambda name: float(name.split(".", 2)[2] in ungated))])
    assert errors(forward(adapted, arrays), want) < 1e-5
    set_gates(adapted, audio=mx.zeros((7, 1)), video=mx.zeros((30, 1)))
    assert errors(forward(adapted, arrays), forward(model, arrays)) < 1e-6
    set_gates(adapted)
    assert errors(forward(adapted, arrays), official_sum(arrays, [(pairs[0], 1.0)])) < 1e-5


def test_half_a_clip_gated_equals_the_base_there_in_the_first_block(world):
    """Strength in time: with causal inputs equal, a token gated to 0 gets the base's own projection."""
    model, adapters, _, _ = world
    adapted = adapt(model, [(adapters[0], Strength())])
    gate = mx.array([1.0, 1, 1, 0, 0, 0, 0])[:, None]
    set_gates(adapted, audio=gate)
    x = mx.random.normal((1, 7, 32))
    name = "transformer_blocks.0.audio_attn1.to_v"
    got, base = adapted_linears(adapted)[name](x), linears(model)[name](x)
    assert mx.array_equal(got[:, 3:], base[:, 3:])
    assert relative_error(got[:, :3], base[:, :3]) > 1e-2


def test_audio_only_model_leaves_the_video_side_out(world):
    model, adapters, _, _ = world
    alone = Transformer(model.config, with_video=False)
    mine = dict(tree_flatten(model.parameters()))
    alone.load_weights([(n, mine[n]) for n, _ in tree_flatten(alone.parameters())])
    placement = place(adapters[0], alone)
    assert placement.summary == "placed 16 of 24 (audio_attn1 8, audio_attn2 8); 8 of the video side left out"
    assert len(adapted_linears(adapt(alone, [(adapters[0], Strength())]))) == 16


def test_the_public_adapters_modules_at_full_size(tmp_path):
    """The 48-layer model by its own config, no weight of it made; 576 modules of the real shapes."""
    data = Path(__file__).parents[1] / "data"
    keys = json.loads((data / "ltx23_keys.json").read_text())
    model = Transformer(TransformerConfig.read(json.loads((data / "ltx23_config.json").read_text())["transformer"]))
    tensors = {}
    for name, (out, into) in ((k, s) for k, s in keys.items() if k.endswith(".weight") and len(s) == 2):
        module = name.removeprefix("model.").removesuffix(".weight")
        if kind(module.removeprefix("diffusion_model.")) in WHISPER_MODULES and "gate" not in module:
            tensors[f"{module}.lora_A.weight"] = np.ones((1, into), np.float16)
            tensors[f"{module}.lora_B.weight"] = np.ones((out, 1), np.float16)
    adapter = read(save(tmp_path / "a.safetensors", tensors))
    assert (
        place(adapter, model).summary == "placed 576 of 576 (audio_attn1 192, audio_attn2 192, video_to_audio_attn 192)"
    )


def test_what_the_lock_does_not_reach_is_known(tmp_path):
    model, reference = model_pair()
    pairs = factors(shapes(reference), ["transformer_blocks.0.attn1.to_q", "transformer_blocks.0.audio_attn1.to_q"])
    placement = place(read(official_file(tmp_path / "a.safetensors", pairs)), model)
    assert placement.outside_audio == ("transformer_blocks.0.attn1.to_q",)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("transformer_blocks.0.audio_attn1.to_q", "Nothing of .*a weight of 32 by 16, the model's is 32 by 32"),
        ("transformer_blocks.40.audio_attn1.to_q", "Nothing of .*this model has no such module"),
        ("video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q", "belongs to the text connectors"),
        ("transformer_blocks.0.audio_attn7.to_q", "no such module in the transformer"),
    ],
)  # fmt: skip
def test_nothing_placed_is_an_error(world, tmp_path, name, words):
    tensors = {f"diffusion_model.{name}.lora_A.weight": np.ones((2, 16), np.float32)}
    tensors[f"diffusion_model.{name}.lora_B.weight"] = np.ones((32, 2), np.float32)
    adapter = read(save(tmp_path / "a.safetensors", tensors))
    for partly in (False, True):
        with pytest.raises(UserError, match=words):
            place(adapter, world[0], allow_partial=partly)


def test_partly_placed_is_an_error_unless_asked_for(world, tmp_path):
    model, _, pairs, arrays = world
    tensors = dict(pairs[0])
    tensors["transformer_blocks.9.audio_attn1.to_q"] = tensors[TARGETS[0]]
    adapter = read(official_file(tmp_path / "a.safetensors", tensors))
    with pytest.raises(UserError, match=r"placed 24 of 25 .*transformer_blocks\.9\.audio_attn1\.to_q \(this model"):
        adapt(model, [(adapter, Strength())])
    got = forward(adapt(model, [(adapter, Strength())], allow_partial=True), arrays)
    assert errors(got, official_sum(arrays, [(pairs[0], 1.0)])) < 1e-5


def test_share_copies_lists_and_tables():
    inner = nn.Linear(2, 2)
    root = nn.Module()
    root.stages = [inner, {"deep": (inner,)}]
    copy = share(root)
    assert copy.stages is not root.stages
    assert copy.stages[0] is not inner
    assert copy.stages[1]["deep"][0].weight is inner.weight


@pytest.mark.parametrize("lengths", [None, "rows", "columns"])
def test_rounded_factors_give_what_casting_at_every_call_gave(lengths):
    draw = np.random.default_rng(0)
    a, b, x = (mx.array(draw.standard_normal(shape).astype(np.float32)) for shape in ((4, 16), (8, 4), (3, 16)))
    base = nn.Linear(16, 8)
    base.set_dtype(mx.bfloat16)
    branch = inner = LowRankBranch(a, b, 0.5)
    if lengths is not None:
        magnitude = mx.array(draw.random(16 if lengths == "columns" else 8).astype(np.float32))
        branch = DoRABranch(DoRA(LowRank(a, b, 0.5), magnitude, lengths), base, 1.0)
        inner = branch.inner
    linear = AdaptedLinear(base, [branch])
    x = x.astype(mx.bfloat16)
    want = linear(x)
    round_factors(nn.Sequential(linear), mx.bfloat16)
    assert inner.lora_A.dtype == inner.lora_B.dtype == mx.bfloat16
    assert want.dtype == mx.bfloat16
    assert mx.array_equal(linear(x), want)
