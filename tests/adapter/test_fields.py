"""Files of other trainers: what stands beside their tensors is applied, refused or named; never passed over."""

import json
import re

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.adapter.apply import adapt
from mlx_ltxw.adapter.formats import read
from mlx_ltxw.adapter.placing import place
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.errors import UserError
from mlx_ltxw.tree import linears
from tests.adapter.helpers import TARGETS, factors, model_pair, save, shapes
from tests.numbers import relative_error

RANK = 4


@pytest.fixture(scope="module")
def world():
    ours, reference = model_pair()
    return ours, factors(shapes(reference), rank=RANK)


def flat(prefix, ends=(".lora_down.weight", ".lora_up.weight"), alpha=None):
    """kohya's way of naming, and whatever stands in front."""

    def tensors(pairs):
        stems = {path: prefix + path.replace(".", "_") for path in pairs}
        named = {stems[path] + end: factor for path, ab in pairs.items() for end, factor in zip(ends, ab, strict=True)}
        alphas = {} if alpha is None else {f"{stem}.alpha": np.float32(alpha) for stem in stems.values()}
        return named | {name: np.array(value) for name, value in alphas.items()}

    return tensors


def dotted(prefix, pairs, ends=(".lora_A.weight", ".lora_B.weight")):
    return {prefix + path + end: x for path, ab in pairs.items() for end, x in zip(ends, ab, strict=True)}


@pytest.mark.parametrize("prefix", [
    "lora_unet__", "lora_unet_", "lora_unet_model_", "lora_unet_diffusion_model_", "lora_transformer__", "lycoris_",
    "lycoris_model_", "lora_unet_model_diffusion_model_", "lora_unet_transformer_",
])  # fmt: skip
def test_every_flat_prefix(world, tmp_path, prefix):
    ours, pairs = world
    adapter = read(save(tmp_path / "a.safetensors", flat(prefix, alpha=2)(pairs)))
    assert adapter.format == "kohya"
    assert place(adapter, ours).summary.startswith("placed 24 of 24")
    for name, (a, b) in pairs.items():
        assert relative_error(adapter.deltas[name].dense(), 2 / RANK * b @ a) < 1e-6


@pytest.mark.parametrize("wrapper", ["transformer._orig_mod.", "_orig_mod.", "module.", "_fsdp_wrapped_module.model."])
def test_wrappers_of_torch(world, tmp_path, wrapper):
    adapter = read(save(tmp_path / "a.safetensors", dotted(wrapper, world[1])))
    assert place(adapter, world[0]).summary.startswith("placed 24 of 24")


def test_norms_beside_pairs_are_left_out_by_name(world, tmp_path):
    """ComfyUI's extraction writes `.diff` for norms and `.diff_b` for biases: sound, and placed but for the norms."""
    ours, pairs = world
    block = "diffusion_model.transformer_blocks.0.audio_attn1."
    extra = {f"{block}q_norm.diff": np.ones(32, np.float32), f"{block}k_norm.diff": np.ones(32, np.float32),
             f"{block}to_q.diff_b": np.full(32, 0.25, np.float32)}  # fmt: skip
    adapter = read(save(tmp_path / "a.safetensors", dotted("diffusion_model.", pairs) | extra))
    with pytest.raises(
        UserError, match=r"only in part .*[kq]_norm, .*[kq]_norm \(a norm's change is not implemented\)"
    ):
        place(adapter, ours)
    placement = place(adapter, ours, allow_partial=True)
    assert placement.summary.startswith("placed 24 of 26")
    assert np.all(np.asarray(adapter.biases["transformer_blocks.0.audio_attn1.to_q"]) == 0.25)


def test_changes_of_other_shapes_elsewhere_do_not_spoil_the_file(world, tmp_path):
    pairs = world[1]
    extra = {"vae.conv.diff": np.ones((2, 2, 3, 3), np.float32), "scale_shift_table.diff": np.ones(3, np.float32)}
    adapter = read(save(tmp_path / "a.safetensors", dotted("", pairs) | extra))
    assert adapter.leftover == {
        "vae.conv": "belongs to a VAE",
        "scale_shift_table": "no such module in the transformer",
    }
    wrong = {f"{TARGETS[0]}.diff": np.ones((2, 2, 3), np.float32)}
    with pytest.raises(UserError, match=r"diff .* is no matrix"):
        read(save(tmp_path / "b.safetensors", wrong))


@pytest.mark.parametrize("alpha", [np.inf, -np.inf, np.nan, 0.0, 1e10])
def test_an_alpha_that_is_not_used_may_be_anything(world, tmp_path, alpha):
    """LyCORIS and ai-toolkit store one with whole factors: 1e10, in fp16 infinity; with a rank it must be a number."""
    name, value = TARGETS[0], np.array(alpha, np.float32)
    draw = np.random.default_rng(0)
    whole = {f"{name}.lokr_w1": draw.standard_normal((4, 4)), f"{name}.lokr_w2": draw.standard_normal((8, 8))}
    whole = {key: tensor.astype(np.float32) for key, tensor in whole.items()}
    adapter = read(save(tmp_path / "a.safetensors", whole | {f"{name}.alpha": value}))
    assert relative_error(adapter.deltas[name].dense(), np.kron(*whole.values())) < 1e-6
    assert not adapter.alphas
    full = read(
        save(tmp_path / "b.safetensors", {f"{name}.diff": np.ones((32, 32), np.float32), f"{name}.alpha": value})
    )
    assert np.all(np.asarray(full.deltas[name].dense()) == 1)
    if not 0 < abs(alpha) < 1e6:
        pair = {f"{name}.{end}": x for end, x in zip(("lora_A.weight", "lora_B.weight"), world[1][name], strict=True)}
        with pytest.raises(UserError, match=r"alpha (is|makes)"):
            read(save(tmp_path / "c.safetensors", pair | {f"{name}.alpha": value}))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"transformer.r": "4", "transformer.lora_alpha": "2"}, r"names transformer\.lora_alpha 2, .* to 0\.5 "),
        ({"network_alpha": "2", "rank": "4"}, r"names network_alpha 2, which is not applied"),
        ({"lora_alpha": "8"}, "to 2 "),
        ({"ss_network_alpha": "1", "ss_network_dim": "4"}, r"ss_network_alpha 1, .* to 0\.25 "),
        ({"transformer.use_rslora": "True"}, r"unknown here are not applied: transformer\.use_rslora"),
        ({"output_gain": "3", "format": "pt"}, "unknown here are not applied: output_gain"),
        ({"ss_output_scale": "3"}, "not applied: ss_output_scale"),
        ({"ss_network_args": '{"algo": "lora", "new_gain": "2"}'}, "not applied: ss_network_args new_gain"),
        ({"ss_network_args": "["}, "not applied: ss_network_args"),
        ({"reference_downscale_factor": "2"}, r"beside a reference clip \(reference_downscale_factor 2\)"),
        ({"ss_reference_downscale_factor": "2"}, "beside a reference clip"),
        ({"lora_adapter_metadata": '{"text_encoder.r": 4}'}, "says nothing about the transformer"),
    ],
)
def test_metadata_that_may_change_the_numbers_is_named(world, tmp_path, metadata, words):
    adapter = read(save(tmp_path / "a.safetensors", dotted("transformer.", world[1]), metadata))
    assert len(adapter.notes) == 1
    assert re.search(words, adapter.notes[0])
    assert {delta.scale for delta in adapter.deltas.values()} == {1.0}


@pytest.mark.parametrize("metadata", [
    {"lora_alpha": "384", "lora_rank": "384", "model_version": "2.3.0", "license": "x"},  # the official distilled LoRA
    {"ss_network_alpha": "4", "ss_network_dim": "4", "ss_network_module": "networks.lora_ltx2", "ss_lr_scheduler": "x",
     "ss_network_args": '{"conv_dim": "4", "dora_wd": "True"}', "ss_scale_weight_norms": "1.0", "sshs_model_hash": "0",
     "modelspec.title": "t", "ss_reference_downscale_factor": "1"},
    {"lora_alpha": "7", "alpha_folded": "true", "base_model": "LTX-2.3", "training_options": "{}"},
    {"ss_network_alpha": "None", "format": "pt", "software": "{}", "training_info": "{}", "version": "1"},
    {"transformer.lora_dropout": "0.1", "transformer.use_dora": "False", "transformer.use_rslora": "none"},
])  # fmt: skip
def test_records_of_a_training_are_let_be(world, tmp_path, metadata):
    assert read(save(tmp_path / "a.safetensors", dotted("diffusion_model.", world[1]), metadata)).notes == ()


def test_an_alpha_in_the_metadata_is_no_news_where_the_tensors_have_theirs(world, tmp_path):
    tensors = flat("lora_unet_", alpha=2)(world[1])
    assert read(save(tmp_path / "a.safetensors", tensors, {"ss_network_alpha": "2", "ss_network_dim": "4"})).notes == ()


def test_model_metadata_without_a_prefix(world, tmp_path):
    """What `save_lora_adapter` writes, on a file whose names do bear the prefix: still this transformer's."""
    text = json.dumps({"r": RANK, "lora_alpha": 2, "peft_type": "LORA", "use_rslora": True})
    adapter = read(save(tmp_path / "a.safetensors", dotted("transformer.", world[1]), {"lora_adapter_metadata": text}))
    assert {delta.scale for delta in adapter.deltas.values()} == {1.0}  # 2 / sqrt 4
    assert adapter.alpha == 2
    bad = {"lora_adapter_metadata": json.dumps({"r": RANK, "lora_alpha": 2, "init_lora_weights": "pissa"})}
    with pytest.raises(UserError, match="init_lora_weights"):
        read(save(tmp_path / "b.safetensors", dotted("", world[1]), bad))


def test_a_pattern_that_would_take_for_ever_is_refused(world, tmp_path):
    text = json.dumps({"r": RANK, "lora_alpha": 2, "alpha_pattern": {"([a-z_]+)+x": 3}})
    with pytest.raises(UserError, match="is no module's name"):
        read(save(tmp_path / "a.safetensors", dotted("", world[1]), {"lora_adapter_metadata": text}))


@pytest.mark.parametrize("shape", [(31,), (33,), (80,), (), (1, 32)])
def test_a_lora_bias_of_another_size_is_refused(world, tmp_path, shape):
    name = next(name for name in TARGETS if "video_to_audio_attn.to_k" in name)  # from 80 features to 32
    tensors = dotted("", {name: world[1][name]})
    with pytest.raises(UserError, match="does not fit"):
        read(save(tmp_path / "a.safetensors", tensors | {f"{name}.lora_B.bias": np.ones(shape, np.float32)}))
    assert read(save(tmp_path / "b.safetensors", tensors | {f"{name}.lora_B.bias": np.ones(32, np.float32)})).biases


def test_lora_bias_acts_with_the_strength(world, tmp_path):
    """PEFT's `lora_B.bias`: alpha / rank and the strength scale it as they scale B A."""
    ours, pairs = world
    name = TARGETS[0]
    tensors = dotted("", {name: pairs[name]}) | {f"{name}.lora_B.bias": np.ones(32, np.float32)}
    tensors[f"{name}.alpha"] = np.array(2, np.float32)
    adapter = read(save(tmp_path / "a.safetensors", tensors))
    x = mx.zeros((1, linears(ours)[name].weight.shape[1]))
    adapted = dict(adapt(ours, [(adapter, Strength(0.5))]).named_modules())[name]
    assert np.allclose(np.asarray(adapted(x) - linears(ours)[name](x)), 0.25, atol=1e-6)
