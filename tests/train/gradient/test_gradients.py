"""Losses and gradients against the official classes with PEFT-style LoRA, fp32, for the same noise."""

import dataclasses
import itertools
import shutil
from collections import Counter

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten, tree_map

import tests.reference.transformer as official
from mlx_ltxw.adapter.apply import adapted_linears, attach
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.machine import Machine
from mlx_ltxw.models import ops
from mlx_ltxw.models.ops import device
from mlx_ltxw.models.transformer import Modality, Transformer, Walk
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.gradient import audio_stream, pullbacks, step
from mlx_ltxw.train.gradient.fresh import fresh_adapter
from mlx_ltxw.train.gradient.layout import set_factors
from mlx_ltxw.train.gradient.recompute import CastLinear, expand
from mlx_ltxw.tree import share, size_of
from tests.numbers import relative_error as relative
from tests.train.clips import build_model, factors, gradient, objective, small

TOLERANCE = 1e-4
SMALL = TrainConfig(rank=3, alpha=6.0)


@pytest.fixture(scope="module")
def pair():
    return build_model(official.small_config(layers=3, video_head_dim=24))


class Peft:
    """The official model with `W + alpha / rank * B A` in place of each trained weight."""

    def __init__(self, reference, case):
        self.reference = reference
        self.scale = case.config.alpha / case.config.rank
        self.leaves = {
            name: torch.tensor(value, requires_grad=True) for name, value in factors(case, case.parameters).items()
        }

    def __call__(self, video, audio):
        frozen = {name: value.detach() for name, value in self.reference.state_dict().items()}
        for path in {name.rsplit(".", 1)[0] for name in self.leaves}:
            change = self.leaves[f"{path}.lora_B"] @ self.leaves[f"{path}.lora_A"]
            frozen[f"{path}.weight"] = frozen[f"{path}.weight"] + self.scale * change
        batch = (audio if video is None else video).latent.shape[0]
        return torch.func.functional_call(self.reference, frozen, (video, audio, official.perturbations(batch, {})))

    def gradients(self, loss):
        loss.backward()
        return {name: leaf.grad.numpy() for name, leaf in self.leaves.items() if leaf.grad is not None}


def stream(case, name, draw=0):
    """A noisy stream for the official model, its clean tokens and its noise."""
    arrays = case.arrays
    clean, noise, sigma = arrays[name], arrays[f"{name}_noise"][:, draw], arrays[f"{name}_sigma"][:, draw]
    level = sigma[:, None, None]
    positions = np.repeat(arrays[f"{name}_positions"][None], len(clean), axis=0)
    modality = official.modality({
        "latent": (1 - level) * clean + level * noise, "sigma": sigma, "timesteps": sigma[:, None],
        "positions": positions, "context": arrays[f"{name}_context"],
    })  # fmt: skip
    return modality, torch.from_numpy(noise - clean)


def mean_squares(velocity, target):
    return ((velocity - target) ** 2).mean(dim=(1, 2)).mean()


def assert_equal_gradients(case, flat, want):
    got = factors(case, flat)
    for name in got:
        if name in want:
            assert relative(got[name], want[name]) < TOLERANCE, name
        else:
            assert not got[name].any(), name
    assert len(want) >= len(got) * 2 // 3


@pytest.mark.parametrize("checkpointing", [False, True])
def test_coupled_equals_official(pair, checkpointing):
    model, reference = pair
    config = dataclasses.replace(SMALL, coupled=True, video_loss=0.5, gradient_checkpointing=checkpointing)
    case = small(model, config)
    flat, losses = gradient(case)
    peft = Peft(reference, case)
    (video, video_target), (audio, audio_target) = stream(case, "video"), stream(case, "audio")
    video_velocity, audio_velocity = peft(video, audio)
    video_loss, audio_loss = mean_squares(video_velocity, video_target), mean_squares(audio_velocity, audio_target)
    assert losses == pytest.approx([audio_loss.item(), video_loss.item()], rel=1e-5)
    assert_equal_gradients(case, flat, peft.gradients(audio_loss + 0.5 * video_loss))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("draws", [1, 3])
def test_decoupled_equals_official_with_the_video_held(pair, draws, checkpointing):
    """The official adapted model, every block given the video that the base model has there."""
    model, reference = pair
    config = dataclasses.replace(SMALL, audio_draws=draws, gradient_checkpointing=checkpointing)
    case = small(model, config, seed=1)
    flat, losses = gradient(case)
    peft = Peft(reference, case)
    video, _ = stream(case, "video")
    held = []

    def record(_, arguments, keywords):
        held.append(keywords.get("video", arguments[0] if arguments else None).x.detach())

    handles = [b.register_forward_pre_hook(record, with_kwargs=True) for b in reference.transformer_blocks]
    with torch.no_grad():
        reference(video, stream(case, "audio")[0], official.perturbations(2, {}))
    [handle.remove() for handle in handles]

    def hold(index):
        def replace(_, arguments, keywords):
            keywords = dict(keywords)
            if "video" in keywords:
                keywords["video"] = dataclasses.replace(keywords["video"], x=held[index])
                return arguments, keywords
            return (dataclasses.replace(arguments[0], x=held[index]), *arguments[1:]), keywords

        return replace

    handles = [
        block.register_forward_pre_hook(hold(i), with_kwargs=True)
        for i, block in enumerate(reference.transformer_blocks)
    ]
    loss = 0
    for i in range(draws):
        audio, target = stream(case, "audio", i)
        loss = loss + mean_squares(peft(video, audio)[1], target) / draws
    [handle.remove() for handle in handles]
    assert losses[0] == pytest.approx(loss.item(), rel=1e-5)
    assert losses[1] == 0
    assert_equal_gradients(case, flat, peft.gradients(loss))


def test_sound_alone_equals_official(pair):
    model, reference = pair
    case = small(model, dataclasses.replace(SMALL, audio_draws=2), seed=2, picture=False)
    flat, losses = gradient(case)
    peft = Peft(official.build_audio_only(reference, official.small_config(layers=3, video_head_dim=24)), case)
    peft.leaves = {name: leaf for name, leaf in peft.leaves.items() if "video" not in name}
    loss = 0
    for i in range(2):
        audio, target = stream(case, "audio", i)
        loss = loss + mean_squares(peft(None, audio)[1], target) / 2
    assert losses[0] == pytest.approx(loss.item(), rel=1e-5)
    assert_equal_gradients(case, flat, peft.gradients(loss))


def test_decoupled_is_the_slope_of_the_locked_forward(pair):
    """Along a random direction, by central differences of the very forward that `generate` samples with."""
    model, _ = pair
    case = small(model, SMALL, seed=3)
    adapted = attach(model, [(fresh_adapter(model, SMALL), Strength())])
    group, draw = case.group, case.draw

    def modality(name, noise, sigma):
        level = sigma[:, None, None]
        tokens, context, rotary = (getattr(group, f"{name}{part}") for part in ("", "_context", "_rotary"))
        return Modality((1 - level) * tokens + level * noise, sigma, sigma[:, None], context, rotary)

    video = modality("video", draw.video, draw.video_sigma)
    audio = modality("audio", draw.audio[:, 0], draw.audio_sigma[:, 0])

    def loss(parameters):
        set_factors(case.layout.factors(parameters), case.layout.branches(adapted))
        velocity = np.asarray(model.locked(adapted, video, audio, audio)[2], np.float64)
        return np.mean((velocity - np.asarray(draw.audio[:, 0] - group.audio, np.float64)) ** 2)

    flat, losses = gradient(case)
    assert losses[0] == pytest.approx(loss(case.parameters), rel=1e-5)
    for seed in range(3):
        direction = mx.random.normal(flat.shape, key=mx.random.key(seed)) * 1e-3
        slope = (loss(case.parameters + direction) - loss(case.parameters - direction)) / 2
        assert slope == pytest.approx(float(np.dot(flat, np.asarray(direction))), rel=5e-3, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"coupled": True}, {"gradient_checkpointing": True}])
def test_quantised_base_is_its_dequantised_self(pair, options):
    model, _ = pair
    config = dataclasses.replace(SMALL, **options)
    packed = Transformer(model.config)
    packed.update(model.parameters())
    nn.quantize(packed, 32, 8, class_predicate=lambda path, m: "transformer_blocks" in path and is_even(m))
    dense = Transformer(model.config)
    dense.update(model.parameters())
    for path, module in packed.named_modules():
        if isinstance(module, nn.QuantizedLinear):
            weight = mx.dequantize(module.weight, module.scales, module.biases, 32, 8)
            node = dense
            for part in path.split("."):
                node = node[int(part)] if part.isdigit() else node[part]
            node.weight = weight
    got, want = gradient(small(packed, config, seed=4)), gradient(small(dense, config, seed=4))
    plain = gradient(small(model, config, seed=4))
    assert relative(got[0], want[0]) < TOLERANCE
    assert relative(plain[0], want[0]) > 1e-3


def test_expanded_layers_are_what_the_packed_ones_stand_for(pair):
    """And none is left packed: training over them on a CPU takes as long as over plain ones."""
    model, _ = pair
    packed = share(model)
    nn.quantize(packed, 32, 8, class_predicate=lambda _, module: is_even(module))
    before = {path: module for path, module in packed.named_modules() if isinstance(module, nn.QuantizedLinear)}
    assert before
    x = mx.random.normal((5, 1024), key=mx.random.key(0))
    products = {path: module(x[:, : size_of(module)[1]]) for path, module in before.items()}
    expand(packed, mx.float32)
    after = dict(packed.named_modules())
    for path, product in products.items():
        assert type(after[path]) is nn.Linear
        assert relative(after[path](x[:, : after[path].weight.shape[1]]), np.asarray(product)) < 1e-5


def is_even(module):
    return isinstance(module, nn.Linear) and module.weight.shape[1] % 32 == 0


@pytest.mark.parametrize("options", [{}, {"coupled": True, "gradient_checkpointing": True}])
def test_bf16_base_computes_in_the_activations_dtype(pair, options):
    """A bf16 weight is cast at each use, in the backward pass too; nothing is rounded on the way."""
    model, _ = pair
    config = dataclasses.replace(SMALL, **options)
    half = Transformer(model.config)
    half.update(tree_map(lambda x: x.astype(mx.bfloat16), model.parameters()))
    wide = Transformer(model.config)
    wide.update(tree_map(lambda x: x.astype(mx.bfloat16).astype(mx.float32), model.parameters()))
    case = small(half, config, seed=5)
    assert isinstance(objective(case).adapted.transformer_blocks[0].audio_ff.net[0].proj, CastLinear)
    assert relative(gradient(case)[0], gradient(small(wide, config, seed=5))[0]) < TOLERANCE


def test_nothing_but_the_adapter_is_trained(pair):
    """A fresh adapter changes nothing, its B alone has a gradient, and the base keeps its very arrays."""
    model, _ = pair
    case = small(model, SMALL, seed=6)
    before = dict(tree_flatten(model.parameters()))
    case.parameters = mx.concatenate([
        part.reshape(-1) * (i % 2 == 0) for i, part in enumerate(case.layout.factors(case.parameters))
    ])  # fmt: skip
    flat, losses = gradient(case)
    for name, value in factors(case, flat).items():
        assert value.any() == name.endswith("lora_B"), name
    after = dict(tree_flatten(model.parameters()))
    assert all(after[name] is before[name] or mx.array_equal(after[name], before[name]) for name in before)
    zero = dataclasses.replace(case, parameters=case.parameters * 0)
    assert losses[0] == gradient(zero)[1][0]


@pytest.mark.parametrize("coupled", [False, True])
def test_numbers_are_let_go_of(pair, coupled):
    """AdamW then writes the new ones in their place."""
    case = small(pair[0], dataclasses.replace(SMALL, coupled=coupled))
    made = objective(case)
    made.gradient(case.parameters, case.group, case.draw, mx.array(1.0))
    assert all(linear.branches[0].lora_A.size == 0 for linear in adapted_linears(made.adapted).values())


def test_each_factor_is_differentiated_for_itself(pair, tmp_path):
    """As a slice of one vector, each would have a gradient of the vector's whole length, a slice of zeros updated: at
    full size 1152 vectors of 327 MB."""
    case = small(pair[0], dataclasses.replace(SMALL, coupled=True))
    flat, _ = objective(case).gradient(case.parameters, case.group, case.draw, mx.array(1.0))
    mx.export_to_dot(str(tmp_path / "graph"), flat)
    graph = (tmp_path / "graph").read_text()
    assert "Matmul" in graph
    assert "SliceUpdate" not in graph


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_keys_and_values_are_those_of_the_base_with_the_adapter_added(pair, monkeypatch, draws, checkpointing):
    """Of the video always; of the text where both audio streams have one noise level. Computed again, they are not."""
    case = small(pair[0], dataclasses.replace(SMALL, audio_draws=draws, gradient_checkpointing=checkpointing))
    made = objective(case)
    names = {id(linear.base): path for path, linear in adapted_linears(made.adapted).items()}
    called, frozen = Counter(), pullbacks._frozen
    monkeypatch.setattr(
        pullbacks, "_frozen", lambda layer, x: called.update([names.get(id(layer))]) or frozen(layer, x)
    )
    mx.eval(made.gradient(case.parameters, case.group, case.draw, mx.array(0.5)))
    readers = {path for path in names.values() if path.endswith(("to_k", "to_v")) and "audio_attn1" not in path}
    text = {path for path in readers if "audio_attn2" in path}
    shared = readers - text if draws == 2 else readers
    assert readers
    for path in names.values():
        assert called[path] == checkpointing + (path not in shared), path


def test_a_step_that_is_not_compiled_submits_block_by_block(pair, monkeypatch):
    """The parts of a block of the base, then that of the adapted sound; on the way back the gradient of a block's input
    with those of its factors, of the first block those alone."""
    submitted, submit = [], mx.async_eval
    monkeypatch.setattr(mx, "async_eval", lambda *arrays: submitted.append(arrays) or submit(*arrays))
    model = share(pair[0])
    monkeypatch.setattr(step, "this_machine", lambda: Machine("cuda", 1, 1))
    case = small(model, SMALL)
    want = gradient(small(pair[0], SMALL))
    made = objective(case)
    submitted.clear()
    got = made.gradient(case.parameters, case.group, case.draw, mx.array(0.5))
    assert mx.array_equal(got[0], mx.array(want[0]))
    blocks = len(model.transformer_blocks)
    shapes = [[array.shape for _, array in tree_flatten(arrays)] for arrays in submitted]
    sounds = [number for number, found in enumerate(shapes) if found == [(2, 7, model.config.audio.dim)]]
    assert len(sounds) == 2 * blocks - 1
    parts = [there - before - 1 for before, there in itertools.pairwise([-1, *sounds[:blocks]])]
    assert parts == [parts[0]] * blocks  # of the base, before each block of the sound
    assert parts[0] > 2
    assert sounds[blocks:] == [*range(len(shapes) - blocks, len(shapes) - 1)]
    assert len(shapes[-1]) == 24
    assert not step.compiles(SMALL)


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles for a CPU with the system's compiler")
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_checkpointing": True}, {"gradient_checkpointing": True, "activations": "bfloat16"},
     {"coupled": True, "gradient_checkpointing": True}],
)  # fmt: skip
def test_a_compiled_step_is_the_step(pair, options):
    """As a Mac runs it, by MLX's compiler for CPUs: what that merges and fuses changes no more than rounding."""
    results = []
    try:
        for compiled in (False, True):
            (mx.enable_compile if compiled else mx.disable_compile)()
            case = small(pair[0], dataclasses.replace(SMALL, compile=compiled, **options))
            flat, losses = objective(case)(case.parameters, case.group, mx.array(0.5))
            results.append((np.asarray(flat), np.asarray(losses)))
    finally:
        mx.enable_compile()
        ops.settle_compile()
    (flat, losses), (compiled_flat, compiled_losses) = results
    assert np.isfinite(flat).all()
    assert flat.any()
    assert relative(compiled_flat, flat) < 1e-6
    assert compiled_losses == pytest.approx(losses, rel=1e-6)


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles for a CPU with the system's compiler")
@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}, {"audio_draws": 2}])
def test_compiled_blocks_are_the_blocks(pair, monkeypatch, options):
    """As CUDA runs small clips: each way of a block is traced once, for all blocks and steps; the base's too."""
    case = small(pair[0], dataclasses.replace(SMALL, **options))
    want, losses = gradient(case)
    traces, block = Counter(), audio_stream.audio_block
    monkeypatch.setattr(step, "blocks_compile", lambda tokens: True)
    monkeypatch.setattr(audio_stream, "audio_block", lambda *given: traces.update("b") or block(*given))
    made = objective(case)
    mx.enable_compile()
    try:
        for _ in range(2):
            got, compiled_losses = made.gradient(case.parameters, case.group, case.draw, mx.array(0.5))
            mx.eval(got, compiled_losses)
    finally:
        ops.settle_compile()
    assert np.asarray(want).any()
    assert relative(np.asarray(got), want) < 1e-6
    assert np.asarray(compiled_losses) == pytest.approx(losses, rel=1e-6)
    assert traces["b"] == 2


def test_nothing_is_compiled_for_who_says_so(pair, monkeypatch):
    monkeypatch.setattr(step, "blocks_compile", lambda tokens: True)
    case = small(pair[0], SMALL)
    assert objective(case)._calling(case.group) is not None
    assert objective(case, dataclasses.replace(SMALL, compile=False))._calling(case.group) is None
    assert objective(case, dataclasses.replace(SMALL, compile=True))._calling(case.group) is None


@pytest.mark.parametrize("backend", ["cpu", "cuda", "metal"])
def test_blocks_are_compiled_for_small_groups(backend, pair, monkeypatch):
    """All clips' video tokens count, which the base beside the sound goes through."""
    monkeypatch.setattr(device, "backend", lambda: backend)
    case = small(pair[0], SMALL)
    made = objective(case)
    assert (made._calling(case.group) is not None) == (backend == "cuda")
    wide = case.group._replace(video=mx.zeros((2, 1025, 1)))
    assert made._calling(wide) is None


@pytest.mark.parametrize(
    ("options", "compiled", "window"),
    [({}, True, step.AHEAD), ({}, False, 1), ({"gradient_checkpointing": True}, True, 1)],
    ids=["compiled", "described", "computed again"],
)
def test_compiled_blocks_run_ahead(pair, monkeypatch, options, compiled, window):
    """Those that are described, or that are computed again, hold too much for it."""
    monkeypatch.setattr(step, "this_machine", lambda: Machine("cuda", 1, 1))
    monkeypatch.setattr(step, "blocks_compile", lambda tokens: compiled)
    walks, there = [], audio_stream.gradient
    monkeypatch.setattr(audio_stream, "gradient", lambda *a, **k: walks.append(k["walk"]) or there(*a, **k))
    gradient(small(pair[0], dataclasses.replace(SMALL, **options)))
    assert [walk.window for walk in walks] == [window]


def test_a_mac_compiles_the_step_and_submits_nothing(pair, monkeypatch):
    monkeypatch.setattr(step, "this_machine", lambda: Machine("metal", 1, 1))
    assert step.compiles(SMALL)
    assert not step.compiles(dataclasses.replace(SMALL, compile=False))
    made = objective(small(pair[0], SMALL))
    for name in ("eval", "async_eval"):
        monkeypatch.setattr(mx, name, lambda *arrays: pytest.fail("evaluated inside a compiled function"))
    case = small(pair[0], SMALL)
    made.gradient(case.parameters, case.group, case.draw, mx.array(0.5))


@pytest.mark.parametrize("how", ["decoupled", pytest.param("decoupled in one", marks=pytest.mark.slow), "coupled"])
def test_checkpointing_keeps_one_block_at_a_time(how):
    """The peak grows with the blocks without it, and hardly with it: a block's own gradients (the keys and values of
    text and video among them) come before the next block is computed again. In one, as a compiled step runs: by the
    graph's order alone."""
    coupled = how == "coupled"

    def peak(checkpointing, layers):
        model, _ = build_model(official.small_config(layers=layers, video_head_dim=24))
        config = dataclasses.replace(SMALL, gradient_checkpointing=checkpointing, coupled=coupled)
        case = small(model, config, clips=1, audio_tokens=200, video_size=(5, 8, 8))
        mx.eval(model.parameters(), case.parameters, case.group)
        made = objective(case, config)
        if how == "decoupled in one":
            made._walk = Walk()
        mx.eval(made.gradient(case.parameters, case.group, case.draw, mx.array(1.0)))
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(made.gradient(case.parameters, case.group, case.draw, mx.array(1.0)))
        return mx.get_peak_memory() - before

    grown = {kept: peak(kept, 12) - peak(kept, 4) for kept in (False, True)}
    assert grown[True] < 0.2 * grown[False], grown
