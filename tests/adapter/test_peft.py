"""Files of PEFT and diffusers, with every setting that changes the numbers; their own merged weights are the oracle."""

import copy
import dataclasses
import json

import mlx.core as mx
import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from mlx_ltxw.adapter.apply import adapt, by_module
from mlx_ltxw.adapter.deltas import change
from mlx_ltxw.adapter.export import export
from mlx_ltxw.adapter.fields import PEFT_APPLIED, PEFT_LET_BE, PEFT_REFUSED
from mlx_ltxw.adapter.formats import read
from mlx_ltxw.adapter.fuse import fuse
from mlx_ltxw.adapter.names import diffusers_name
from mlx_ltxw.adapter.placing import place
from mlx_ltxw.adapter.scales import mlx_config
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.errors import UserError
from mlx_ltxw.tree import linears
from tests.adapter.helpers import TARGETS, forward, inputs, model_pair
from tests.adapter.test_export import diffusers_model
from tests.numbers import relative_error

SOME = [name for name in TARGETS if name.startswith("transformer_blocks.0.audio_attn1")]
PATTERN = {"audio_attn1.to_q": 8, r"^transformer_blocks\.0\..*to_v": 2}


@pytest.fixture(scope="module")
def base():
    """Ours and diffusers' own transformer, whose chosen linears hold the same weights; and a copy by another road."""
    ours, theirs = model_pair()[0], diffusers_model()
    for name in SOME:
        linear = theirs.get_submodule(diffusers_name(name))
        linear.weight.data = torch.from_numpy(np.array(linears(ours)[name].weight))
        linear.bias.data = torch.from_numpy(np.array(linears(ours)[name].bias))
    return ours, theirs


def trained(model, seed=3):
    """Moves every tensor of an adapter away from where it began."""
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "magnitude" in name:
            parameter.data = parameter.data * (0.7 + 0.6 * torch.rand(parameter.shape, generator=draw))
        elif "lora_" in name or "lokr_" in name or "hada_" in name:
            parameter.data = parameter.data + torch.randn(parameter.shape, generator=draw) * 0.15
    return model


def merged(model, before, strength=1.0):
    """Official name -> what PEFT adds to the weight and the bias, by its own `merge`."""
    changes = {}
    for name in SOME:
        layer = model.get_submodule(diffusers_name(name))
        for adapter in layer.active_adapters:
            layer.set_scale(adapter, strength)
        layer.merge()
        plain = before.get_submodule(diffusers_name(name))
        layer = layer.get_base_layer()
        changes[name] = (layer.weight - plain.weight).detach().numpy(), (layer.bias - plain.bias).detach().numpy()
    return changes


def check(adapter, ours, want, strength=1.0):
    """The weight changes, fused and beside, against PEFT's."""
    placement = place(adapter, ours)
    assert set(placement.placed) == set(want)
    assert placement.total == len(want)
    adapters = [(adapter, Strength(strength))]
    fused, here = linears(fuse(ours, adapters).model), linears(ours)
    beside = dict(adapt(ours, adapters).named_modules())
    for name, parts in by_module(adapters, [placement]).items():
        weight, bias = want[name]
        got = sum(
            value * np.asarray(change(delta, here[name].weight)) for delta, _, value in parts if delta is not None
        )
        assert relative_error(got, weight) < 3e-6, name
        assert np.abs(np.asarray(fused[name].weight - here[name].weight) - weight).max() < 1e-6
        assert np.abs(np.asarray(fused[name].bias - here[name].bias) - bias).max() < 1e-6
        x = np.random.default_rng(0).standard_normal((5, weight.shape[1])).astype(np.float32)
        moved = beside[name](mx.array(x)) - here[name](mx.array(x))
        assert relative_error(moved, x @ weight.T + bias) < 1e-5, name


SETTINGS = {
    "plain": {"r": 8, "lora_alpha": 2},
    "rslora": {"r": 8, "lora_alpha": 2, "use_rslora": True},
    "patterns": {"r": 4, "lora_alpha": 2, "alpha_pattern": PATTERN, "rank_pattern": {"to_k": 2}},
    "both": {"r": 4, "lora_alpha": 2, "alpha_pattern": PATTERN, "rank_pattern": {"to_k": 2}, "use_rslora": True},
    "dora": {"r": 4, "lora_alpha": 2, "use_dora": True},
    "dora rslora": {"r": 4, "lora_alpha": 2, "use_dora": True, "use_rslora": True, "rank_pattern": {"to_k": 2}},
    "lora_bias": {"r": 4, "lora_alpha": 2, "lora_bias": True},
    "gaussian": {"r": 4, "lora_alpha": 2, "init_lora_weights": "gaussian"},
    "orthogonal": {"r": 4, "lora_alpha": 2, "init_lora_weights": "orthogonal"},
    "mica": {"r": 4, "lora_alpha": 2, "init_lora_weights": "mica"},
    "eva": {"r": 4, "lora_alpha": 2, "init_lora_weights": "eva"},
    "not begun": {"r": 4, "lora_alpha": 2, "init_lora_weights": False},
    "transposed": {"r": 4, "lora_alpha": 2, "fan_in_fan_out": True},
}
OTHERS = {
    "lokr": peft.LoKrConfig(r=2, alpha=6, target_modules=[diffusers_name(n) for n in SOME]),
    "whole lokr": peft.LoKrConfig(r=64, alpha=6, target_modules=[diffusers_name(n) for n in SOME]),
    "loha": peft.LoHaConfig(r=2, alpha=6, alpha_pattern=PATTERN, target_modules=[diffusers_name(n) for n in SOME]),
}


def config_of(case):
    if case in OTHERS:
        return copy.deepcopy(OTHERS[case])
    return peft.LoraConfig(target_modules=[diffusers_name(name) for name in SOME], **SETTINGS[case])


@pytest.mark.parametrize("case", [*SETTINGS, *OTHERS])
@pytest.mark.parametrize("writer", ["peft", "model", "pipeline"])
def test_what_peft_and_diffusers_write_is_read_exactly(base, tmp_path, case, writer):
    """`save_pretrained` (a folder), `save_lora_adapter` (bare names), `save_lora_weights` (`transformer.`)."""
    from diffusers import LTX2Pipeline

    ours, before = base
    model = copy.deepcopy(before)
    if writer == "peft":
        wrapped = trained(peft.get_peft_model(model, config_of(case)))
        wrapped.save_pretrained(tmp_path)
        path = tmp_path / "adapter_model.safetensors"
    else:
        model.add_adapter(config_of(case))
        trained(model)
        path = tmp_path / "pytorch_lora_weights.safetensors"
        if writer == "model":
            model.save_lora_adapter(tmp_path)
        else:
            LTX2Pipeline.save_lora_weights(
                tmp_path, transformer_lora_layers=peft.get_peft_model_state_dict(model, adapter_name="default"),
                transformer_lora_adapter_metadata=plain_config(model.peft_config["default"]),
            )  # fmt: skip
    adapter = read(path)
    assert adapter.format == {"peft": "peft", "model": "bare", "pipeline": "diffusers"}[writer]
    assert [note for note in adapter.notes if "DoRA" not in note] == []
    check(adapter, ours, merged(model, before))


def plain_config(config):
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}


@pytest.mark.parametrize("strength", [0.5, 1.7, -0.8])
@pytest.mark.parametrize("case", ["plain", "dora", "dora rslora", "lora_bias", "lokr"])
def test_a_strength_does_what_peft_s_scale_does(base, tmp_path, case, strength):
    """DoRA scales B A inside the norm; fused, beside the weights and exported to diffusers alike."""
    ours, before = base
    model = copy.deepcopy(before)
    model.add_adapter(config_of(case))
    trained(model).save_lora_adapter(tmp_path)
    adapter = read(tmp_path / "pytorch_lora_weights.safetensors")
    check(adapter, ours, merged(model, before, strength), strength)
    assert any("strength other than 1" in note for note in adapter.notes) == case.startswith("dora")


def test_dora_exported_to_diffusers(base, tmp_path):
    """diffusers loads what was exported and computes the same at strength 0.6; mixed with LoRA it could not."""
    from diffusers import LTX2Pipeline

    ours, before = base
    model = copy.deepcopy(before)
    model.add_adapter(config_of("dora"))
    trained(model).save_lora_adapter(tmp_path)
    adapter = read(tmp_path / "pytorch_lora_weights.safetensors")
    path = export(adapter, "diffusers", tmp_path / "exported.safetensors")
    state, metadata = LTX2Pipeline.lora_state_dict(path, return_lora_metadata=True)
    assert all("lora" in key for key in state)  # what load_lora_weights asks for
    loaded = copy.deepcopy(before)
    LTX2Pipeline.load_lora_into_transformer(state, loaded, adapter_name="default", metadata=metadata)
    want = merged(loaded, before, 0.6)
    check(adapter, ours, want, 0.6)
    check(read(path), ours, want, 0.6)
    first, *rest = adapter.deltas
    mixed = dataclasses.replace(adapter, deltas=adapter.deltas | {first: adapter.deltas[first].inner})
    with pytest.raises(UserError, match="both LoRA and DoRA modules"):
        export(mixed, "diffusers", path)
    assert rest


BASE_CHANGED = ["pissa", "pissa_niter_4", "olora"]


@pytest.mark.parametrize("start", BASE_CHANGED)
def test_a_start_that_changes_the_base_is_refused_and_its_conversion_read(base, tmp_path, start):
    """PEFT's own conversion gives the change from the base as it was before the start."""
    ours, before = base
    config = peft.LoraConfig(
        target_modules=[diffusers_name(n) for n in SOME], r=4, lora_alpha=2, init_lora_weights=start
    )
    wrapped = peft.get_peft_model(copy.deepcopy(before), config)
    wrapped.peft_config["default"].init_lora_weights = True  # as PEFT's guide has it, to keep the beginning
    wrapped.save_pretrained(tmp_path / "begun")
    wrapped.peft_config["default"].init_lora_weights = start
    trained(wrapped)
    for file in ("adapter", "lora"):
        model = copy.deepcopy(wrapped)
        more = {"path_initial_model_for_weight_conversion": str(tmp_path / "begun")} if file == "lora" else {}
        model.save_pretrained(tmp_path / file, **more)
    with pytest.raises(UserError, match=rf'init_lora_weights is "{start}".*path_initial_model_for_weight_conversion'):
        read(tmp_path / "adapter" / "adapter_model.safetensors")
    check(read(tmp_path / "lora" / "adapter_model.safetensors"), ours, merged(wrapped.base_model.model, before))


@pytest.mark.parametrize("start", ["corda", "lora_ga", "loftq", "OLoRA", "pissa_niter_x", "newest", 3, ["pissa"]])
def test_other_starts_are_refused_by_name(base, tmp_path, start):
    path = written(base, tmp_path, {"init_lora_weights": start})
    with pytest.raises(UserError, match="init_lora_weights is"):
        read(path)


def written(base, folder, fields):
    """A PEFT folder whose configuration was changed by hand."""
    wrapped = trained(peft.get_peft_model(copy.deepcopy(base[1]), config_of("plain")))
    wrapped.save_pretrained(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder / "adapter_model.safetensors"


def test_every_field_of_this_peft_is_in_one_table():
    """A new version's fields fail here, so that somebody says what is done about them."""
    tables = (PEFT_APPLIED, PEFT_REFUSED.keys(), PEFT_LET_BE)
    for config in (peft.LoraConfig, peft.LoKrConfig, peft.LoHaConfig):
        for field in dataclasses.fields(config):
            assert sum(field.name in table for table in tables) == 1, field.name


@pytest.mark.parametrize("field", sorted(PEFT_REFUSED))
def test_fields_that_make_another_change_are_refused(base, tmp_path, field):
    path = written(base, tmp_path, {field: {"x": 1}})
    with pytest.raises(UserError, match=f"it sets {field}: .*not implemented"):
        read(path)


def test_unknown_fields_are_noted_and_a_byte_order_mark_is_none(base, tmp_path):
    path = written(base, tmp_path, {"new_scale": 3.0, "off": False, "none": None, "empty": {}})
    file = tmp_path / "adapter_config.json"
    notes = read(path).notes
    assert len(notes) == 1
    assert "unknown here are not applied: new_scale." in notes[0]
    for encoding in ("utf-8-sig", "utf-16"):
        file.write_bytes(file.read_text().encode(encoding))
        assert read(path).notes == notes
        file.write_bytes(file.read_bytes().decode(encoding).encode())


def test_whole_biases_and_contradictions_are_told(base, tmp_path):
    wrapped = trained(peft.get_peft_model(copy.deepcopy(base[1]), peft.LoraConfig(
        target_modules=[diffusers_name(n) for n in SOME], bias="lora_only")))  # fmt: skip
    wrapped.save_pretrained(tmp_path / "bias")
    with pytest.raises(UserError, match="a whole bias in place of the model's own"):
        place(read(tmp_path / "bias" / "adapter_model.safetensors"), base[0])
    with pytest.raises(UserError, match="says use_dora True, its tensors say otherwise"):
        read(written(base, tmp_path, {"use_dora": True}))


def test_a_configuration_beside_other_names_is_named(base, tmp_path):
    path = written(base, tmp_path, {})
    tensors = {f"diffusion_model.{key.removeprefix('base_model.model.')}": t for key, t in load_file(path).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    adapter = read(tmp_path / "a.safetensors")
    assert {delta.scale for delta in adapter.deltas.values()} == {1.0}
    assert "gives scale 0.25, which is not applied" in adapter.notes[0]
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": config["r"]}))
    assert read(tmp_path / "a.safetensors").notes == ()  # scale 1 either way
    by_root = config | {"lora_alpha": 6, "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(by_root))
    assert "gives scale 2.12132, which" in read(tmp_path / "a.safetensors").notes[0]  # 6 / sqrt(8)
    (tmp_path / "adapter_config.json").write_text("{")
    assert "is not applied" in read(tmp_path / "a.safetensors").notes[0]


def test_mlx_lm_factors_and_scale(base, tmp_path):
    """`y = x W + scale (x a) b` with a (in, rank), b (rank, out): mlx-lm's own layer computes the change."""
    from mlx_lm.tuner.lora import LoRALinear

    name, tensors = SOME[0], {}
    linear = linears(base[0])[name]
    layer = LoRALinear.from_base(linear, r=4, scale=20.0)
    layer.lora_b = mx.random.normal(layer.lora_b.shape, key=mx.random.key(1)) * 0.1
    for role in ("lora_a", "lora_b"):
        tensors[f"{name}.{role}"] = torch.from_numpy(np.array(layer[role]))
    save_file(tensors, tmp_path / "adapters.safetensors")
    with pytest.raises(UserError, match=r"without its adapter_config\.json"):
        place(read(tmp_path / "adapters.safetensors"), base[0])
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 20.0, "dropout": 0.0}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    adapter = read(tmp_path / "adapters.safetensors")
    x = mx.random.normal((3, linear.weight.shape[1]), key=mx.random.key(2))
    got = dict(adapt(base[0], [(adapter, Strength())]).named_modules())[name](x)
    assert relative_error(got, layer(x)) < 1e-6
    assert relative_error(got, linear(x)) > 1e-2


def test_mlx_lm_ranks(tmp_path):
    for rank, message in (
        (1, None),
        (4, None),
        (10**6 - 1, None),
        (0, "its rank"),
        (True, "its rank"),
        (2.0, "its rank"),
        (10**6, "its rank"),
    ):
        config = tmp_path / "adapter_config.json"
        config.write_text(json.dumps({"lora_parameters": {"rank": rank, "scale": 3.0}}))
        if message is None:
            assert mlx_config(config).spread({rank}) == {3.0}
        else:
            with pytest.raises(UserError, match=message):
                mlx_config(config)


def test_strength_reaches_the_whole_model(base, tmp_path):
    """The model's output at strength 0.5, the DoRA fused and beside; neither is half-way to that of strength 1."""
    ours, before = base
    model = copy.deepcopy(before)
    model.add_adapter(config_of("dora"))
    trained(model).save_lora_adapter(tmp_path)
    adapters = [(read(tmp_path / "pytorch_lora_weights.safetensors"), Strength(0.5))]
    arrays = inputs()
    fused, beside = forward(fuse(ours, adapters).model, arrays), forward(adapt(ours, adapters), arrays)
    assert max(relative_error(f, b) for f, b in zip(fused, beside, strict=True)) < 1e-5
    bare, full = forward(ours, arrays)[1], forward(adapt(ours, [(adapters[0][0], Strength())]), arrays)[1]
    assert relative_error(beside[1], (bare + full) / 2) > 1e-3
