"""Fused weights against the official fuse, bit for bit, and against its newest rule worked in PyTorch."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten, tree_map
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch

from mlx_ltxw.adapter.apply import adapt, adapted_linears, attach_changes, by_module
from mlx_ltxw.adapter.deltas import LowRank
from mlx_ltxw.adapter.formats import read
from mlx_ltxw.adapter.fuse import fuse, fuse_changes, fused_weight
from mlx_ltxw.adapter.placing import place
from mlx_ltxw.adapter.streamed import by_block
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.models.transformer import Transformer, TransformerConfig
from mlx_ltxw.tree import linears, size_of
from tests.adapter.helpers import (
    SECTION,
    TARGETS,
    factors,
    forward,
    inputs,
    model_pair,
    official_file,
    reference_forward,
    shapes,
)
from tests.numbers import relative_error

from ltx_core.loader.fuse_loras import apply_loras  # isort: skip  # after tests.reference made it importable
from ltx_core.loader.primitives import LoraStateDictWithStrength, StateDict  # isort: skip


def bits(array):
    return np.asarray(array.astype(mx.float32)).view(np.uint32)


def torch_bits(tensor):
    return tensor.float().numpy().view(np.uint32)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Both models in bf16, and two adapters as bf16 files."""
    model, reference = model_pair()
    reference = reference.to(torch.bfloat16)
    half = model_pair()[0]
    half.update(tree_map(lambda x: x.astype(mx.bfloat16), model.parameters()))
    paths = []
    for i, rank in enumerate((4, 3)):
        pairs = factors(shapes(reference), rank=rank, seed=i)
        path = tmp_path_factory.mktemp("a") / f"{i}.safetensors"
        save_torch({
            f"diffusion_model.{n}.lora_{x}.weight": torch.from_numpy(t).bfloat16()
            for n, ab in pairs.items() for x, t in zip("AB", ab, strict=True)
        }, path)  # fmt: skip
        paths.append(path)
    return half, reference, paths


def official_lora(path, strength):
    state = {k.removeprefix("diffusion_model."): v for k, v in load_file(path).items()}
    return LoraStateDictWithStrength(StateDict(state, torch.device("cpu"), 0, set()), strength)


@pytest.mark.parametrize("strength", [1.0, 0.7, -1.3])
def test_bf16_weights_equal_the_official_fuse_to_the_bit(world, strength):
    half, reference, paths = world
    weights = {n: t for n, t in reference.state_dict().items() if n.removesuffix(".weight") in TARGETS}
    state = StateDict(weights, torch.device("cpu"), 0, set())
    want = apply_loras(state, [official_lora(paths[0], strength)]).sd
    result = fuse(half, [(read(paths[0]), Strength(strength))])
    got = linears(result.model)
    assert result.summary == "fused into 24 weights"
    for name in TARGETS:
        assert got[name].weight.dtype == mx.bfloat16
        assert np.array_equal(bits(got[name].weight), torch_bits(want[f"{name}.weight"])), name
        assert not np.array_equal(bits(got[name].weight), torch_bits(weights[f"{name}.weight"]))


def test_fused_outputs_equal_the_official_models(world):
    """The official class with officially fused weights, run in fp32, against ours."""
    half, reference, paths = world
    fused = fuse(half, [(read(paths[0]), Strength(0.7))]).model
    fused.update(tree_map(lambda x: x.astype(mx.float32), fused.parameters()))
    state = StateDict({n: t for n, t in reference.state_dict().items() if n.removesuffix(".weight") in TARGETS},
                      torch.device("cpu"), 0, set())  # fmt: skip
    copy = model_pair()[1]
    copy.load_state_dict({n: t.float() for n, t in reference.state_dict().items()})
    copy.load_state_dict(
        {n: t.float() for n, t in apply_loras(state, [official_lora(paths[0], 0.7)]).sd.items()}, strict=False
    )
    arrays = inputs()
    got, want = forward(fused, arrays), reference_forward(copy, arrays)
    assert max(relative_error(g, w) for g, w in zip(got, want, strict=True)) < 1e-5


def test_several_adapters_by_the_newest_official_rule(world):
    """ltx-core 1.2.0: matmul(B * s, A), then addmm_ with alpha = s, then the weight; all in bf16."""
    half, reference, paths = world
    strengths = (0.7, 1.4)
    result = fuse(half, [(read(p), Strength(s)) for p, s in zip(paths, strengths, strict=True)])
    got, files = linears(result.model), [load_file(p) for p in paths]
    for name in TARGETS:
        (a, b), (c, d) = ([f[f"diffusion_model.{name}.lora_{x}.weight"] for x in "AB"] for f in files)
        total = torch.matmul(b * strengths[0], a)
        total.addmm_(d, c, alpha=strengths[1])
        total.add_(reference.get_submodule(name).weight.data)
        assert np.array_equal(bits(got[name].weight), torch_bits(total)), name


def test_only_summation_order_separates_large_weights():
    """At 512 by 512, rank 32: one bf16 step in at most a few elements of 10,000 products' roundings."""
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(32, 512, generator=draw).bfloat16()
    b = (torch.randn(512, 32, generator=draw) * 0.05).bfloat16()
    weight = (torch.randn(512, 512, generator=draw) * 0.05).bfloat16()
    want = torch.matmul(b * 0.7, a).add_(weight).float().numpy()
    to_mlx = lambda t: mx.array(t.float().numpy()).astype(mx.bfloat16)  # noqa: E731
    got = np.asarray(fused_weight(to_mlx(weight), [(LowRank(to_mlx(a), to_mlx(b)), 0.7)]).astype(mx.float32))
    different = got != want
    assert different.mean() < 1e-4
    assert np.all(np.abs(got - want)[different] <= np.abs(want[different]) * 2**-6)


def test_fp32_weights_are_fused_in_fp32(world):
    """Where the official code would round fp32 weights to bf16, ours keeps them."""
    model, reference = model_pair()
    adapter = read(world[2][0])
    got = linears(fuse(model, [(adapter, Strength(0.7))]).model)
    file = load_file(world[2][0])
    for name in TARGETS:
        a, b = (file[f"diffusion_model.{name}.lora_{x}.weight"].double() for x in "AB")
        want = reference.get_submodule(name).weight.data.double() + 0.7 * (b @ a)
        assert relative_error(got[name].weight, want.numpy()) < 1e-7


def test_fused_equals_unfused_on_fp32(world):
    model, _ = model_pair()
    adapters, arrays = [(read(p), Strength(0.6)) for p in world[2]], inputs()
    fused, beside = forward(fuse(model, adapters).model, arrays), forward(adapt(model, adapters), arrays)
    assert max(relative_error(f, b) for f, b in zip(fused, beside, strict=True)) < 1e-5


def test_base_is_untouched_and_other_arrays_shared(world):
    half, _, paths = world
    before = dict(tree_flatten(half.parameters()))
    result = fuse(half, [(read(paths[0]), Strength())])
    after, fused = dict(tree_flatten(half.parameters())), dict(tree_flatten(result.model.parameters()))
    assert all(after[name] is array for name, array in before.items())
    changed = {name.removesuffix(".weight") for name in before if fused[name] is not before[name]}
    assert changed == set(TARGETS)


def quantised_model(bits_=4):
    model, _ = model_pair()
    nn.quantize(model, 32, bits_, class_predicate=lambda path, module: path in TARGETS and "v_to" not in path
                and module.weight.shape[1] % 32 == 0)  # fmt: skip
    return model


def test_quantised_base_stays_unfused_unless_asked(world):
    model, adapters, arrays = quantised_model(), [(read(world[2][0]), Strength())], inputs()
    result = fuse(model, adapters)
    packed = [path for path in TARGETS if isinstance(linears(model)[path], nn.QuantizedLinear)]
    assert set(result.unfused) == set(packed) == set(adapted_linears(result.model))
    assert set(result.fused) == set(TARGETS) - set(packed)
    assert 0 < len(result.fused) < 24
    assert result.summary == f"fused into {24 - len(packed)} weights, beside {len(packed)}"
    got, want = forward(result.model, arrays), forward(adapt(model, adapters), arrays)
    assert max(relative_error(g, w) for g, w in zip(got, want, strict=True)) < 1e-5


def test_chosen_modules_keep_their_adapter_beside(world):
    model, adapters, arrays = model_pair()[0], [(read(world[2][0]), Strength())], inputs()
    result = fuse(model, adapters, keep_unfused=lambda path: path.endswith("to_v"))
    kept = [path for path in TARGETS if path.endswith("to_v")]
    assert set(result.unfused) == set(kept) == set(adapted_linears(result.model))
    assert set(result.fused) == set(TARGETS) - set(kept)
    got, want = forward(result.model, arrays), forward(fuse(model, adapters).model, arrays)
    assert max(relative_error(g, w) for g, w in zip(got, want, strict=True)) < 1e-5


@pytest.mark.parametrize("bits_", [4, 8])
def test_requantising_reports_what_it_costs(world, bits_):
    """The reported loss, by hand: |dequantised result - (dequantised base + change)| over |change|."""
    model = quantised_model(bits_)
    adapter = read(world[2][0])
    result = fuse(model, [(adapter, Strength(0.1))], quantized=True)
    assert not result.unfused
    assert result.losses
    for path, loss in result.losses.items():
        old, new = linears(model)[path], linears(result.model)[path]
        delta = 0.1 * np.asarray(adapter.deltas[path].dense(), np.float64)

        def dense(q):
            return np.asarray(mx.dequantize(q.weight, q.scales, q.biases, q.group_size, q.bits), np.float64)

        want = np.linalg.norm(dense(new) - dense(old) - delta) / np.linalg.norm(delta)
        assert loss == pytest.approx(want, rel=1e-3)
        assert loss > 0.01
    assert "re-quantising cost" in result.summary


def test_finer_weights_lose_less(world):
    adapters = [(read(world[2][0]), Strength(0.1))]
    coarse, fine = (fuse(quantised_model(b), adapters, quantized=True).loss for b in (4, 8))
    assert fine < coarse / 4


def test_biases_and_dora_fuse_as_they_act_beside(tmp_path):
    model, reference = model_pair()
    draw = np.random.default_rng(0)
    tensors = {}
    for i, (name, (a, b)) in enumerate(factors(shapes(reference)).items()):
        spelled = f"diffusion_model.{name}"
        tensors |= {f"{spelled}.lora_A.weight": a, f"{spelled}.lora_B.weight": b}
        if i % 2:
            tensors[f"{spelled}.lora_magnitude_vector"] = draw.uniform(0.8, 1.4, b.shape[0]).astype(np.float32)
        else:
            tensors[f"{spelled}.diff_b"] = draw.standard_normal(b.shape[0]).astype(np.float32)
    save_torch({k: torch.from_numpy(v) for k, v in tensors.items()}, tmp_path / "a.safetensors")
    adapters, arrays = [(read(tmp_path / "a.safetensors"), Strength(0.8))], inputs()
    fused, beside = forward(fuse(model, adapters).model, arrays), forward(adapt(model, adapters), arrays)
    assert max(relative_error(f, b) for f, b in zip(fused, beside, strict=True)) < 1e-5
    assert relative_error(fused[1], forward(model, arrays)[1]) > 1e-2


def test_alpha_and_folded_alpha_fuse_alike(tmp_path):
    """A file whose B * alpha / rank is folded fuses like the file with its alpha, where the factor is a power of 2."""
    model, reference = model_pair()
    pairs = factors(shapes(reference))
    with_alpha = {}
    for name, (a, b) in pairs.items():
        with_alpha |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b, f"{name}.alpha": np.float32(2)}
    save_torch({k: torch.tensor(v) for k, v in with_alpha.items()}, tmp_path / "alpha.safetensors")
    folded = official_file(tmp_path / "folded.safetensors", {n: (a, b * 0.5) for n, (a, b) in pairs.items()})
    half = model_pair()[0]
    half.update(tree_map(lambda x: x.astype(mx.bfloat16), model.parameters()))
    results = [linears(fuse(half, [(read(p), Strength(0.9))]).model) for p in (tmp_path / "alpha.safetensors", folded)]
    assert all(np.array_equal(bits(results[0][n].weight), bits(results[1][n].weight)) for n in TARGETS)


def memory_of(action):
    """Bytes that MLX holds at most during it, beyond what it holds before."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    result = action()
    return mx.get_peak_memory() - before, result


@pytest.mark.parametrize("outside", [False, True])
def test_fusing_a_model_that_is_used_up_holds_one_block_twice(world, tmp_path, outside):
    """Every block's base weights go as soon as it is fused; a model that is kept needs room for all of them."""
    layers = 6
    section = dict(SECTION, num_layers=layers)
    names = [f"transformer_blocks.{i}.{m}.to_q" for i in range(layers) for m in ("attn1", "attn2")]
    names = ["patchify_proj", *names] if outside else names

    def fresh():
        model = Transformer(TransformerConfig.read(section))
        mx.eval(model.parameters())
        return model

    sizes = {name: size_of(linear) for name, linear in linears(fresh()).items()}
    adapter = read(official_file(tmp_path / "a.safetensors", factors(sizes, names, rank=1)))
    adapters = [(adapter, Strength(0.7))]
    changed = sum(4 * out * into for out, into in (sizes[name] for name in names))
    model = fresh()
    kept, want = memory_of(lambda: fuse(model, adapters))
    assert kept > 0.9 * changed
    consumed = fresh()
    used_up, got = memory_of(lambda: fuse(consumed, adapters, consume=True))
    assert used_up < 2 * changed / layers
    assert got.model is consumed
    assert got.fused == want.fused == tuple(sorted(names))
    ours, theirs = dict(tree_flatten(consumed.parameters())), dict(tree_flatten(want.model.parameters()))
    base = dict(tree_flatten(model.parameters()))
    for name in names:
        delta = theirs[f"{name}.weight"] - base[f"{name}.weight"]
        assert float(mx.abs(delta).max()) > 0
    assert ours.keys() == theirs.keys()


def test_one_block_alone_is_fused_as_in_the_model(world):
    half, _, paths = world
    adapters = [(read(paths[0]), Strength(0.7))]
    parts = by_block(by_module(adapters, [place(adapters[0][0], half)]))
    assert set(parts) == {"transformer_blocks.0", "transformer_blocks.1"}
    block = fuse_changes(half.transformer_blocks[1], parts["transformer_blocks.1"])
    want = dict(tree_flatten(fuse(half, adapters).model.transformer_blocks[1].parameters()))
    got = dict(tree_flatten(block.model.parameters()))
    assert got.keys() == want.keys()
    assert all(mx.array_equal(got[name], want[name]) for name in want)
    assert sum(not mx.array_equal(got[n], v) for n, v in tree_flatten(half.transformer_blocks[1].parameters())) == 12
    beside = attach_changes(half.transformer_blocks[1], parts["transformer_blocks.1"])
    assert len(adapted_linears(beside)) == 12
    assert not adapted_linears(half.transformer_blocks[1])
