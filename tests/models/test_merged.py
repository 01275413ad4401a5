"""Linears of one input as one product: the same numbers, no memory more, fewer starts."""

import gc
import math
import re

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import tests.reference.transformer as official
from mlx_ltxw import machine
from mlx_ltxw.adapter import fuse as fusing
from mlx_ltxw.adapter.apply import adapt, attach, set_gates, settle
from mlx_ltxw.adapter.formats import read
from mlx_ltxw.adapter.fuse import fuse
from mlx_ltxw.adapter.placing import place
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.machine import Machine
from mlx_ltxw.models.packed import quantize
from mlx_ltxw.models.transformer import Compiled, Skips, Transformer, TransformerConfig, Walk, attention, joint_forward
from mlx_ltxw.models.transformer import merged as laying
from mlx_ltxw.models.transformer.merged import MERGED
from mlx_ltxw.pipeline import needs, networks
from mlx_ltxw.pipeline.networks import Networks, lay_together
from mlx_ltxw.tree import linears, share
from mlx_ltxw.weights import arriving
from mlx_ltxw.weights.arriving import Arriving
from mlx_ltxw.weights.memory import layer_bytes
from mlx_ltxw.weights.streaming import RESIDENT, STREAMED, Residency
from tests.adapter.helpers import factors, forward, inputs, official_file, save
from tests.models.test_transformer import both, streams
from tests.numbers import relative_error


def random_model():
    """With biases that are not zero."""
    made = Transformer(TransformerConfig.read(official.small_config(layers=2)))
    for number, linear in enumerate(linears(made).values()):
        linear.bias = mx.random.normal(linear.bias.shape, key=mx.random.key(number))
    mx.eval(made.parameters())
    return made


@pytest.fixture
def model():
    return random_model()


def merged(model):
    """A copy whose linears are laid together."""
    copy = share(model)
    lay_together(copy)
    return copy


def same(got, want, most=1e-6):
    for one, other in zip(got, want, strict=True):
        assert relative_error(one, other) < most


def adapter(model, folder, targets, seed=0):
    sizes = {name: linear.weight.shape for name, linear in linears(model).items() if "transformer_blocks" in name}
    names = [name for name in sizes if re.search(targets, name)]
    return read(official_file(folder / f"{seed}.safetensors", factors(sizes, names, seed=seed)))


@pytest.mark.parametrize(("tokens", "wide", "products"), [(2048, 4096, 20), (0, 160, 30), (0, 64, 31), (0, 63, 34)])
def test_products_of_a_block(model, monkeypatch, tokens, wide, products):
    """Of 34 there are 20: queries, keys, values and gates of attention to itself are one; of any other, queries and
    gates, and keys and values. For more tokens than `TOKENS` only keys and values are, no wider than `WIDE`."""
    monkeypatch.setattr(attention, "TOKENS", tokens)
    monkeypatch.setattr(attention, "WIDE", wide)
    counts, addmm = [], mx.addmm
    block = merged(model).transformer_blocks[0]
    monkeypatch.setattr(mx, "addmm", lambda *given: (counts.append(1), addmm(*given))[1])
    found = []
    for blocks in ([block], [block, block]):
        network = Transformer(model.config)
        network.transformer_blocks = blocks
        counts.clear()
        network(*both(network, *streams(network.config)))
        found.append(len(counts))
    assert found[1] - found[0] == products


def test_a_forward_is_the_same(model):
    """Whatever it leaves out, described as it is or as a function of arrays."""
    video, audio = both(model, *streams(model.config))
    together = merged(model)
    for skips in (Skips(), Skips(video_self=frozenset({1}), audio_self=frozenset({0})), Skips(cross=True)):
        want = model(video, audio, skips)
        same(together(video, audio, skips), want)
        as_functions = joint_forward(together, video, audio, call=Compiled())
        same(Walk().together([(as_functions, skips)])[0], want)
    same([together.audio_alone(audio)], [model.audio_alone(audio)])


def test_nothing_is_in_memory_twice(model):
    """The linears' weights are rows of what is multiplied, and the old ones are gone."""
    bytes_of = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    mx.clear_cache()
    before = mx.get_active_memory()
    lay_together(model)
    assert mx.get_active_memory() - before <= 0.01 * bytes_of
    assert sum(array.nbytes for _, array in tree_flatten(model.parameters())) == bytes_of
    attention = model.transformer_blocks[1].attn1
    (arrays,) = attention["_merged"].values()
    whole = np.array(arrays["weight"], copy=False)
    start = 0
    for name in ("to_q", "to_k", "to_v", "to_gate_logits"):
        rows = np.array(attention[name].weight, copy=False)
        assert rows.ctypes.data == whole[start:].ctypes.data
        start += len(rows)
    assert start == len(whole)


@pytest.mark.parametrize("gates", [True, False], ids=["all packed", "gates are not"])
def test_packed_weights(model, gates):
    """Their codes, scales and biases lie together too."""

    def packed(path, linear):
        fits = "attn" in path and hasattr(linear, "to_quantized") and linear.weight.shape[1] % 32 == 0
        return fits and (gates or "gate" not in path)

    quantize(model, packed, group_size=32, bits=8)
    together = merged(model)
    (names,) = together.transformer_blocks[0].audio_attn1["_merged"]
    assert names == "to_q to_k to_v" + " to_gate_logits" * gates
    same(forward(together, inputs()), forward(model, inputs()))


@pytest.mark.parametrize("targets", ["audio_attn1.to_q", "attn", "video_to_audio_attn.to_k|audio_attn2.to_v|gate"])
def test_adapters_beside_and_in_the_weights(model, tmp_path, targets):
    together, given = merged(model), [(adapter(model, tmp_path, targets), Strength(0.7))]
    want = forward(adapt(model, given), inputs())
    assert relative_error(want[1], forward(model, inputs())[1]) > 1e-3
    same(forward(adapt(together, given), inputs()), want)
    same(forward(fuse(together, given).model, inputs()), want, 1e-5)
    same(forward(together, inputs()), forward(model, inputs()))  # left as it was
    same(forward(fuse(together, given, consume=True).model, inputs()), want, 1e-5)


def test_two_adapters_one_of_them_settled(model, tmp_path):
    """What has become a part of the base stays apart, and the second goes beside it."""
    one, other = (adapter(model, tmp_path, "audio_attn1", seed) for seed in (0, 1))
    placed, found = [place(other, model)], []
    for base in (model, merged(model)):
        first = adapt(base, [(one, Strength())])
        settle(first)
        found.append(forward(attach(first, [(other, Strength())], placed), inputs()))
    same(found[1], found[0])


ALL = "to_q to_k to_v to_gate_logits"


def test_an_adapter_that_is_fused_is_laid_together_again(model, tmp_path):
    """If queries, keys and values all have it; otherwise what it has not changed would be in memory twice beside a base
    that stays."""
    together = merged(model)
    for targets, names in (("audio_attn1.to_[qkv]", [ALL]), ("audio_attn1.to_q", [])):
        made = fuse(together, [(adapter(model, tmp_path, targets), Strength())]).model
        assert list(made.transformer_blocks[0].audio_attn1["_merged"]) == names
        assert [*made.transformer_blocks[0].attn1["_merged"]] == [ALL]


@pytest.mark.parametrize("targets", ["attn1.to_q", "attn2.to_v", "gate"])
def test_nothing_is_left_of_a_base_that_is_used_up(model, tmp_path, targets):
    """Of what was one product, some linears alone have an adapter: the others are laid together with the new ones."""
    given = [(adapter(model, tmp_path, targets), Strength())]
    lay_together(model)
    bytes_of = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    mx.clear_cache()
    before = mx.get_active_memory()
    fuse(model, given, consume=True)
    mx.eval(model.parameters())
    assert mx.get_active_memory() - before <= 0.01 * bytes_of
    block = model.transformer_blocks[0]
    assert [*block.audio_attn1["_merged"]] == [ALL]
    assert {*block.attn2["_merged"]} == {"to_q to_gate_logits", "to_k to_v"}


def test_strength_in_time(model, tmp_path):
    given, found = [(adapter(model, tmp_path, "audio"), Strength())], []
    for base in (model, merged(model)):
        adapted = adapt(base, given)
        set_gates(adapted, mx.linspace(0, 1, 7)[:, None], mx.linspace(0, 1, 30)[:, None])
        found.append(forward(adapted, inputs()))
    same(found[1], found[0])


@pytest.mark.parametrize("columns", [False, True])
def test_doras(model, tmp_path, columns):
    """Which measure the base's weight, and may multiply with it again."""
    linear = linears(model)[name := "transformer_blocks.0.audio_attn1.to_k"]
    out, into = linear.weight.shape
    (a, b), start = factors({name: (out, into)}, [name])[name], f"diffusion_model.{name}."
    scale = np.linspace(0.5, 1.5, into if columns else out, dtype=np.float32)
    tensors = {start + "lora_A.weight": a, start + "lora_B.weight": b}
    tensors[start + "dora_scale"] = scale[None] if columns else scale[:, None]
    given = [(read(save(tmp_path / "dora.safetensors", tensors)), Strength(0.8))]
    same(forward(adapt(merged(model), given), inputs()), forward(adapt(model, given), inputs()), 2e-6)


@pytest.mark.parametrize("targets", ["attn|ff", r"\.to_[qkv]$"])
def test_a_block_that_comes_holds_what_is_planned(made_model, monkeypatch, tmp_path, targets):
    """While those before it are at work: what an adapter makes of its weights, and linears of one attention. When it
    has come it is alone in memory."""
    monkeypatch.setattr(networks, "MERGED", MERGED | {"cpu": True})
    monkeypatch.setattr(machine, "on_cpu", lambda: False)
    monkeypatch.setattr(arriving, "GROUP", 10_000)
    monkeypatch.setattr(arriving.Arrival, "take_come", lambda self: None)
    (block, last), _ = layer_bytes(made_model, "transformer", mx.float32)
    bare = Networks(made_model, mx.float32).transformer(audio_only=False)
    one = adapter(bare, tmp_path, targets)
    mx.eval([(delta.a, delta.b) for delta in one.deltas.values()])
    fused = sum(4 * math.prod(delta.shape) for path, delta in one.deltas.items() if ".1." in path)
    assert 0.3 * last < fused <= last == block
    gc.collect()
    before = mx.get_active_memory()
    network = Networks(made_model, mx.float32).transformer(audio_only=False)
    network = fuse(network, [(one, Strength(0.7))], [place(one, bare)], consume=True).model
    for number in (0, 1):
        mx.clear_cache()
        mx.reset_peak_memory()
        mx.eval(network.transformer_blocks[number].parameters())
    gc.collect()
    there = sum(array.nbytes for _, array in tree_flatten(network.parameters()))
    assert mx.get_active_memory() - before <= there + 2 * (16 << 10)  # MLX lets a result keep so much of an input's
    clip = needs.Subject(made_model, mx.float32, Machine("cuda", 1, 1), False, (), fused=fused)
    planned = needs.arriving(clip, [block, last], [1, 1])
    assert fused < mx.get_peak_memory() - mx.get_active_memory() <= planned + 0.01 * block


@pytest.mark.parametrize("targets", ["", "attn1.to_[qkv]", "audio_attn1.to_q|attn2.to_v"])
@pytest.mark.parametrize("consume", [False, True])
def test_residencies_have_the_same_bits(made_model, monkeypatch, tmp_path, targets, consume):
    """However blocks come into memory, the same linears are one product, with adapters in them and without."""
    monkeypatch.setattr(networks, "MERGED", MERGED | {"cpu": True})
    bare, found = Networks(made_model, mx.float32).transformer(audio_only=False), []
    for residency, cpu in ((RESIDENT, True), (RESIDENT, False), (STREAMED, True), (Residency(1), True)):
        monkeypatch.setattr(machine, "on_cpu", lambda cpu=cpu: cpu)
        network = Networks(made_model, mx.float32, residency=residency).transformer(audio_only=False)
        assert isinstance(network.transformer_blocks, Arriving) is not cpu
        if targets:
            one = adapter(bare, tmp_path, targets)
            network = fuse(network, [(one, Strength(0.7))], [place(one, bare)], consume=consume).model
        found.append(network(*both(network, *streams(network.config))))
    for others in found[1:]:
        assert all(mx.array_equal(one, other) for one, other in zip(others, found[0], strict=True))


@pytest.mark.parametrize("residency", [RESIDENT, STREAMED, Residency(1)])
def test_a_network_of_a_run(made_model, residency, monkeypatch):
    """Where a run loads it, on the backends of the table; of one that is streamed each block as it comes."""
    bare = Networks(made_model, mx.float32, residency=residency).transformer(audio_only=False)
    monkeypatch.setattr(networks, "MERGED", MERGED | {"cpu": True})
    together = Networks(made_model, mx.float32, residency=residency).transformer(audio_only=False)
    assert all("_merged" in block.attn1 and "_merged" in block.audio_attn2 for block in together.transformer_blocks)
    video, audio = both(bare, *streams(bare.config))
    same(together(video, audio), bare(video, audio))


@pytest.mark.parametrize("targets", ["", "audio_attn1.to_[qkv]", "audio_attn1.to_q|to_out"])
@pytest.mark.parametrize("consume", [False, True])
def test_blocks_that_are_still_on_their_way(made_model, monkeypatch, tmp_path, targets, consume):
    """As on a GPU: each is laid together when it has come, and fused after that; the old arrays are let go of."""
    bare = Networks(made_model, mx.float32).transformer(audio_only=False)
    monkeypatch.setattr(machine, "on_cpu", lambda: False)
    monkeypatch.setattr(networks, "MERGED", MERGED | {"cpu": True})
    together = Networks(made_model, mx.float32).transformer(audio_only=False)
    assert isinstance(together.transformer_blocks, Arriving)
    video, audio = both(bare, *streams(bare.config))
    if targets:
        given = [(adapter(bare, tmp_path, targets), Strength(0.7))]
        bare, together = (fuse(one, given, consume=consume).model for one in (bare, together))
    same(together(video, audio), bare(video, audio))
    names = list(together.transformer_blocks[0].audio_attn1["_merged"])
    assert names == ([] if "to_out" in targets and not consume else [ALL])


class Cut:
    """A call that is interrupted the first time, before it has done anything or when it has done all."""

    def __init__(self, call, late):
        self.call, self.late, self.left = call, late, 1

    def __call__(self, *given, **options):
        made = self.call(*given, **options) if self.late or not self.left else None
        if self.left:
            self.left = 0
            raise KeyboardInterrupt
        return made


@pytest.mark.parametrize("late", [False, True])
def test_what_is_interrupted_is_done_again(made_model, monkeypatch, tmp_path, late):
    """Laying together and fusing: who asks for the block again has it, and nothing is in memory twice."""
    bare = Networks(made_model, mx.float32).transformer(audio_only=False)
    monkeypatch.setattr(machine, "on_cpu", lambda: False)
    monkeypatch.setattr(networks, "MERGED", MERGED | {"cpu": True})
    for module in (networks, fusing):
        monkeypatch.setattr(module, "filled_later", lambda *given: Cut(laying.filled_later(*given), late))
    given = [(adapter(bare, tmp_path, "attn"), Strength(0.7))]
    want = dict(tree_flatten(fuse(bare, given).model.parameters()))
    mx.eval(want)
    gc.collect()
    before = mx.get_active_memory()
    together = Networks(made_model, mx.float32).transformer(audio_only=False)
    together = fuse(together, given, [place(given[0][0], bare)], consume=True).model
    for number in (0, 1):
        for _ in range(2):  # each of the two is cut once
            with pytest.raises(KeyboardInterrupt):
                together.transformer_blocks[number]
        together.transformer_blocks[number]
    gc.collect()
    found = dict(tree_flatten(together.parameters()))
    assert mx.get_active_memory() - before <= 1.05 * sum(array.nbytes for array in found.values())
    assert all(mx.array_equal(array, want[path]) for path, array in found.items())
