"""The same adapter in every spelling against the official model with the sum `W + B A` in its weights."""

import json

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.torch import save_file as save_torch

from mlx_ltxw.adapter.apply import adapt
from mlx_ltxw.adapter.formats import read
from mlx_ltxw.adapter.names import diffusers_name
from mlx_ltxw.adapter.placing import place
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.errors import UserError
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

RANK = 4
COUNTS = "placed 24 of 24 (audio_attn1 8, audio_attn2 8, video_to_audio_attn 8)"


@pytest.fixture(scope="module")
def world():
    """Our model, the adapter's factors, inputs, and what the official model gives with `W + scale * B A`."""
    model, reference = model_pair()
    pairs = factors(shapes(reference))
    arrays = inputs()

    def expected(scale=lambda name: 1.0):
        plain = {name: module.weight.data.clone() for name, module in reference.named_modules() if name in pairs}
        for name, (a, b) in pairs.items():
            reference.get_submodule(name).weight.data += scale(name) * torch.from_numpy(b) @ torch.from_numpy(a)
        out = reference_forward(reference, arrays)
        for name, weight in plain.items():
            reference.get_submodule(name).weight.data = weight
        return out

    return model, pairs, arrays, expected


def check(world, path, scale=None, summary=COUNTS):
    """Reads, places, applies; compares both streams with the official model."""
    model, _, arrays, expected = world
    adapter = read(path)
    assert place(adapter, model).summary == summary
    got = forward(adapt(model, [(adapter, Strength())]), arrays)
    want = expected(scale) if scale else expected()
    assert max(relative_error(g, w) for g, w in zip(got, want, strict=True)) < 1e-5
    assert relative_error(got[1], forward(model, arrays)[1]) > 1e-2
    return adapter


def lora(pairs, name, down=".lora_A.weight", up=".lora_B.weight", alpha=None):
    """Tensors of a file whose module names `name` spells."""
    tensors = {}
    for path, (a, b) in pairs.items():
        tensors[name(path) + down] = a
        tensors[name(path) + up] = b
        if alpha is not None:
            tensors[name(path) + ".alpha"] = np.array(alpha(path), dtype=np.float32)
    return tensors


def flat(prefix):
    return lambda path: prefix + path.replace(".", "_")


DOWN_UP = (".lora_down.weight", ".lora_up.weight")
LINEAR_LAYER = (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")
DEFAULT = (".lora_A.default.weight", ".lora_B.default.weight")


@pytest.mark.parametrize(
    ("label", "name", "ends"),
    [
        ("official", lambda p: f"diffusion_model.{p}", ()),
        ("bare", lambda p: p, ()),
        ("official", lambda p: f"model.diffusion_model.{p}", ()),
        ("diffusers", lambda p: f"transformer.{diffusers_name(p)}", ()),
        ("diffusers", lambda p: f"transformer.{diffusers_name(p)}", (".lora.down.weight", ".lora.up.weight")),
        ("diffusers", lambda p: f"transformer.{diffusers_name(p)}", LINEAR_LAYER),
        ("peft", lambda p: f"base_model.model.{p}", ()),
        ("peft", lambda p: f"base_model.model.{p}", DEFAULT),
        ("official", lambda p: f"diffusion_model.{p}", DEFAULT),
        ("kohya", flat("lora_unet_"), DOWN_UP),
        ("kohya", flat("lora_unet_model_"), DOWN_UP),
        ("official", lambda p: f"diffusion_model.{p}", DOWN_UP),
        ("mlx", lambda p: f"diffusion_model.{p.replace('to_out.0', 'to_out')}", ()),
        ("mlx", lambda p: p.replace("to_out.0", "to_out"), (".lora_A", ".lora_B")),
    ],
)
def test_every_spelling_gives_the_same_output(world, tmp_path, label, name, ends):
    path = save(tmp_path / "a.safetensors", lora(world[1], name, *ends))
    assert check(world, path).format == label


@pytest.mark.parametrize(
    "name", [flat("lora_unet_"), flat("lora_unet_model_"), lambda p: f"diffusion_model.{p}", lambda p: p]
)
def test_stored_alpha_over_rank(world, tmp_path, name):
    path = save(tmp_path / "a.safetensors", lora(world[1], name, *DOWN_UP, alpha=lambda p: 2.0))
    adapter = check(world, path, scale=lambda p: 2.0 / RANK)
    assert adapter.alpha == 2.0


def test_stored_alphas_may_differ(world, tmp_path):
    def alpha(path):
        return 1.0 if "attn1" in path else 6.0

    path = save(tmp_path / "a.safetensors", lora(world[1], flat("lora_unet_"), *DOWN_UP, alpha=alpha))
    assert check(world, path, scale=lambda p: alpha(p) / RANK).alpha is None


def test_alpha_in_the_metadata_alone_is_not_applied(tmp_path):
    """As in the official distilled LoRA: lora_alpha 384 beside ranks from 32 to 384, scale 1."""
    _, reference = model_pair()
    sizes = shapes(reference)
    pairs = factors(sizes, rank=lambda name: 2 if "to_k" in name else 6)
    path = official_file(tmp_path / "a.safetensors", pairs, metadata={"lora_alpha": "6", "lora_rank": "6"})
    adapter = read(path)
    assert {delta.scale for delta in adapter.deltas.values()} == {1.0}
    assert {delta.rank for delta in adapter.deltas.values()} == {2, 6}


def test_half_precision_files(world, tmp_path):
    """ai-toolkit saves fp16, the official trainer bf16: the stored values are used as they are."""
    model, pairs, _, _ = world
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        tensors = {k: torch.from_numpy(v).to(dtype) for k, v in lora(pairs, lambda p: f"diffusion_model.{p}").items()}
        save_torch(tensors, tmp_path / "a.safetensors")
        adapter = read(tmp_path / "a.safetensors")
        for path in TARGETS:
            stored = tensors[f"diffusion_model.{path}.lora_B.weight"].float().numpy()
            assert np.array_equal(np.asarray(adapter.deltas[path].b.astype(mx.float32)), stored)
        assert place(adapter, model).summary == COUNTS


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"r": RANK, "lora_alpha": 2}, lambda p: 0.5),
        ({"r": RANK, "lora_alpha": 6, "use_rslora": True}, lambda p: 3.0),
        (
            {"r": RANK, "lora_alpha": 4, "alpha_pattern": {"audio_attn1.to_q": 8, r"transformer_blocks\.1\..*to_v": 2}},
            lambda p: 2.0 if p.endswith("audio_attn1.to_q") else 0.5 if ".1." in p and "to_v" in p else 1.0,
        ),
    ],
)
def test_real_peft_folder(world, tmp_path, settings, scale):
    """Saved by PEFT itself, its own forward the oracle."""
    from peft import LoraConfig, get_peft_model

    model, pairs, arrays, _ = world
    _, reference = model_pair()
    wrapped = get_peft_model(reference, LoraConfig(target_modules=list(pairs), lora_dropout=0.0, **settings))
    for name, (a, b) in pairs.items():
        module = wrapped.base_model.model.get_submodule(name)
        module.lora_A["default"].weight.data = torch.from_numpy(a)
        module.lora_B["default"].weight.data = torch.from_numpy(b)
    wrapped.save_pretrained(tmp_path / "peft")
    adapter = check(world, tmp_path / "peft" / "adapter_model.safetensors", scale=scale)
    assert adapter.format == "peft"
    assert not adapter.notes
    theirs = reference_forward(wrapped.base_model.model, arrays)
    got = forward(adapt(model, [(adapter, Strength())]), arrays)
    assert max(relative_error(g, w) for g, w in zip(got, theirs, strict=True)) < 1e-5


def test_peft_without_its_configuration_says_so(world, tmp_path):
    path = save(tmp_path / "a.safetensors", lora(world[1], lambda p: f"base_model.model.{p}"))
    assert "adapter_config.json is missing" in check(world, path).notes[0]


def test_real_diffusers_file(world, tmp_path):
    """Saved by diffusers itself, with its metadata (alpha 8, rank 4)."""
    from diffusers import LTX2Pipeline

    layers = {f"{diffusers_name(p)}.lora_{x}.weight": torch.from_numpy(t) for p, ab in world[1].items()
              for x, t in zip("AB", ab, strict=True)}  # fmt: skip
    LTX2Pipeline.save_lora_weights(
        tmp_path, transformer_lora_layers=layers, transformer_lora_adapter_metadata={"r": RANK, "lora_alpha": 8}
    )
    adapter = check(world, tmp_path / "pytorch_lora_weights.safetensors", scale=lambda p: 2.0)
    assert adapter.format == "diffusers"
    assert adapter.alpha == 8


def test_kron_and_hadamard(world, tmp_path):
    """LoKr with whole and decomposed factors and LoHa, by the formulas ComfyUI computes (torch.kron)."""
    model, _, arrays, _ = world
    _, reference = model_pair()
    draw = torch.Generator().manual_seed(5)
    tensors, scale = {}, 2.0 / 3  # alpha 2, rank 3

    def rand(*shape):
        return torch.randn(shape, generator=draw) * 0.15

    for i, name in enumerate(TARGETS):
        module = reference.get_submodule(name)
        out, into = module.weight.shape
        if i % 3 == 0:
            w1, w2 = rand(4, 2), rand(out // 4, into // 2)
            parts = {"lokr_w1": w1, "lokr_w2": w2, "alpha": torch.tensor(1e10)}  # LyCORIS' mark for "unused"
            delta = torch.kron(w1, w2)
        elif i % 3 == 1:
            w1, a, b = rand(2, 4), rand(out // 2, 3), rand(3, into // 4)
            parts = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(2.0)}
            delta = torch.kron(w1, a @ b) * scale
        else:
            w1a, w1b, w2a, w2b = rand(out, 3), rand(3, into), rand(out, 3), rand(3, into)
            parts = {"hada_w1_a": w1a, "hada_w1_b": w1b, "hada_w2_a": w2a, "hada_w2_b": w2b}
            parts["alpha"] = torch.tensor(2.0)
            delta = (w1a @ w1b) * (w2a @ w2b) * scale
        module.weight.data += delta
        spelled = f"lycoris_{name.replace('.', '_')}" if i % 2 else f"diffusion_model.{name}"
        tensors |= {f"{spelled}.{role}": value for role, value in parts.items()}
    save_torch(tensors, tmp_path / "a.safetensors")
    adapter = read(tmp_path / "a.safetensors")
    assert place(adapter, model).summary == COUNTS
    got = forward(adapt(model, [(adapter, Strength())]), arrays)
    want = reference_forward(reference, arrays)
    assert max(relative_error(g, w) for g, w in zip(got, want, strict=True)) < 1e-5


@pytest.mark.parametrize("method", ["LoKrConfig", "LoHaConfig"])
def test_real_peft_lokr_and_loha(world, tmp_path, method):
    import peft

    model, _, arrays, _ = world
    _, reference = model_pair()
    config = getattr(peft, method)(r=3, alpha=6, target_modules=TARGETS, init_weights=False)
    wrapped = peft.get_peft_model(reference, config)
    torch.manual_seed(2)
    for name, parameter in wrapped.named_parameters():
        if "lokr" in name or "hada" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    wrapped.save_pretrained(tmp_path)
    adapter = read(tmp_path / "adapter_model.safetensors")
    assert place(adapter, model).summary == COUNTS
    got = forward(adapt(model, [(adapter, Strength())]), arrays)
    want = reference_forward(wrapped.base_model.model, arrays)
    assert max(relative_error(g, w) for g, w in zip(got, want, strict=True)) < 1e-5
    assert adapter.alpha == 6


def test_other_parts_are_named(world, tmp_path):
    """musubi's files can hold a projection's LoRA: refused as a whole, placed in part only when asked for."""
    model, pairs, _, _ = world
    tensors = lora(pairs, lambda p: f"diffusion_model.{p}")
    tensors["text_embedding_projection.aggregate_embed.lora_A.weight"] = np.ones((2, 8), np.float32)
    tensors["text_embedding_projection.aggregate_embed.lora_B.weight"] = np.ones((8, 2), np.float32)
    adapter = read(save(tmp_path / "a.safetensors", tensors))
    with pytest.raises(UserError, match=r"only in part \(placed 24 of 25 .*aggregate_embed \(belongs to the text proj"):
        place(adapter, model)
    assert place(adapter, model, allow_partial=True).summary.startswith("placed 24 of 25")


def spoil(key, value):
    return lambda tensors: tensors | {key: value}


FIRST = f"diffusion_model.{TARGETS[0]}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {k: v for k, v in t.items() if k != f"{FIRST}.lora_B.weight"}, "lora_B missing"),
        (spoil(f"{FIRST}.lora_A.weight", np.ones((5, 32), np.float32)), "different ranks"),
        (spoil(f"{FIRST}.lora_A.weight", np.ones((4, 32, 1), np.float32)), "no matrix"),
        (spoil(f"{FIRST}.lora_A.weight", np.ones((4, 32), np.int32)), "whole numbers"),
        (spoil(f"{FIRST}.lora_A.weight", np.full((4, 32), np.nan, np.float32)), "NaN or infinite"),
        (spoil(f"{FIRST}.lora_A.weight", np.full((4, 32), 1e7, np.float32)), "values up to 1e[+]07"),
        (spoil(f"{FIRST}.lora_A.weight", np.ones((4, 32), np.uint8)), "dtype U8"),
        (spoil(f"{FIRST}.lora_A.weight", np.full((4, 32), 1e-40, np.float32)), "values up to .*e-41"),
        (spoil(f"{FIRST}.alpha", np.array(0.0, np.float32)), "alpha is 0"),
        (spoil(f"{FIRST}.alpha", np.array(np.inf, np.float32)), "no number to scale by"),
        (spoil(f"{FIRST}.alpha", np.array(4e-45, np.float32)), r"alpha makes its scale 1\.05097e-45"),
        (spoil(f"{FIRST}.alpha", np.ones(3, np.float32)), "alpha .* is not one number"),
        (spoil("diffusion_model.patchify_proj.alpha", np.array(1.0, np.float32)), "alpha without the weights"),
        (spoil(f"transformer.{TARGETS[0]}.lora_A.weight", np.ones((4, 32), np.float32)), "lora_B missing"),
        (spoil(f"{FIRST}.lora_down.weight", np.ones((4, 32), np.float32)), "two spellings"),
        (spoil(f"{FIRST}.lokr_w1", np.ones((4, 4), np.float32)), "several methods"),
        (spoil(f"{FIRST}.dora_scale", np.ones((7, 1), np.float32)), r"dora_scale \(7, 1\)"),
    ],
)
def test_unsound_files_are_refused_with_the_reason(world, tmp_path, change, words):
    tensors = change(lora(world[1], lambda p: f"diffusion_model.{p}"))
    path = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(UserError, match=words):
        read(path)


def test_two_changes_of_one_module_are_refused(world, tmp_path):
    tensors = lora(world[1], lambda p: f"diffusion_model.{p}") | lora(world[1], lambda p: f"transformer.{p}")
    with pytest.raises(UserError, match="a second change of transformer_blocks"):
        read(save(tmp_path / "a.safetensors", tensors))


@pytest.mark.parametrize("ending", ["lora_mid.weight", "oft_R.weight", "initial_norm", "set_weight", "lora_a"])
def test_other_methods_are_named(world, tmp_path, ending):
    tensors = lora(world[1], lambda p: f"diffusion_model.{p}") | {f"{FIRST}.{ending}": np.ones((4, 4), np.float32)}
    adapter = read(save(tmp_path / "a.safetensors", tensors))
    with pytest.raises(UserError, match=r"placed 23 of 24 .* is not implemented"):
        place(adapter, world[0])


def test_a_model_is_no_adapter(tmp_path):
    with pytest.raises(UserError, match=r"holds no adapter.*model\.diffusion_model\.x\.weight"):
        read(save(tmp_path / "a.safetensors", {"model.diffusion_model.x.weight": np.ones((2, 2), np.float32)}))


def test_pickles_are_refused_unread(tmp_path):
    for name, content in (("a.pt", b"x" * 20), ("a.safetensors", b"PK\x03\x04" + bytes(20)), ("b.bin", b"\x80\x02")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="pickle"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "cannot be read"),
        (json.dumps({"peft_type": "OFT", "r": 4}), "method is OFT"),
        (json.dumps({"r": 4}), "lora_alpha"),
        (json.dumps({"r": "4", "lora_alpha": 4}), "rank 'r'"),
        (json.dumps({"r": 4, "lora_alpha": 4, "alpha_pattern": {"(": 2}}), "pattern"),
        (json.dumps({"r": 4, "lora_alpha": 4, "modules_to_save": ["proj_out"]}), "modules_to_save"),
        (json.dumps({"r": 8, "lora_alpha": 4}), "rank 4, but .*adapter_config.json says 8"),
    ],
)
def test_unusable_peft_configurations(world, tmp_path, config, words):
    path = save(tmp_path / "adapter_model.safetensors", lora(world[1], lambda p: f"base_model.model.{p}"))
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(UserError, match=words):
        read(path)


def test_a_checkpoint_is_no_adapter(tmp_path):
    """A vocoder's tensors are called `.alpha` too."""
    tensors = {"vocoder.act.alpha": torch.ones(3), "vocoder.conv.weight": torch.ones(2, 2)}
    save_torch(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="holds no adapter"):
        read(tmp_path / "x.safetensors")
