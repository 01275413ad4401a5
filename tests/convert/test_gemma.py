"""A Gemma-3 folder in any of Hugging Face's spellings becomes mlx-lm's layout, and mlx-lm itself loads it."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw.convert import run
from mlx_ltxw.convert.quantize import Quantization
from mlx_ltxw.errors import UserError
from tests.convert.made import converted, edited, made, prepare
from tests.numbers import relative_error


def copy_gemma(target, config=None, rename=None):
    """The made Gemma with another config and other tensor names (None: dropped)."""
    shutil.copytree(made().gemma, target)
    if config is not None:
        (target / "config.json").write_text(json.dumps(config))
    if rename:

        def change(tensors, metadata):
            for name in list(tensors):
                entry = tensors.pop(name)
                if (new := rename(name)) is not None:
                    tensors[new] = entry

        for file in made().gemma.glob("*.safetensors"):
            edited(file, target / file.name, change)
        (target / "model.safetensors.index.json").unlink(missing_ok=True)
    return target


def settings():
    return json.loads((made().gemma / "config.json").read_text())


def bfloat16(folder):
    """Every tensor of the folder's files as float32, by name; bfloat16 read by its bits."""
    from safetensors.torch import load_file as load_torch

    return {
        name: value.float().numpy() for file in folder.glob("*.safetensors") for name, value in load_torch(file).items()
    }


def language_names(name):
    """The multimodal file's names (older transformers) to the bare language model's."""
    return name.removeprefix("language_model.") if name.startswith("language_model.model.") else None


def newer_names(name):
    """transformers 4.52 and later: `model.language_model.…`, `model.vision_tower.…`."""
    if name.startswith("language_model.model."):
        return name.replace("language_model.model.", "model.language_model.", 1)
    return f"model.{name}" if name.startswith(("vision_tower", "multi_modal_projector")) else name


def test_mlx_lm_loads_the_language_model():
    """mlx-lm's own loader, strictly: the official weights, nothing of the vision tower."""
    from mlx_lm.utils import load_model

    model, config = load_model(converted().text_encoder, lazy=True, strict=True)
    assert config["model_type"] == "gemma3_text"
    source = bfloat16(made().gemma)
    assert any(name.startswith("vision_tower") for name in source)
    loaded = dict(tree_flatten(model.parameters()))
    assert set(loaded) == {n.removeprefix("language_model.") for n in source if n.startswith("language_model.model.")}
    for name, array in loaded.items():
        np.testing.assert_array_equal(np.array(array.astype(mx.float32)), source[f"language_model.{name}"])


def test_mlx_lm_loads_the_quantised_one():
    from mlx_lm.utils import load_model

    model, config = load_model(converted("8", 32).text_encoder, lazy=True, strict=True)
    assert config["quantization"]["bits"] == 8
    layers = dict(model.named_modules())
    assert type(layers["model.embed_tokens"]).__name__ == "Embedding"
    linears = [path for path, layer in layers.items() if type(layer).__name__ == "QuantizedLinear"]
    assert len(linears) == 7 * settings()["text_config"]["num_hidden_layers"]  # q, k, v, o, gate, up, down
    weight = bfloat16(made().gemma)["language_model.model.layers.0.mlp.up_proj.weight"]
    quantised = layers["model.layers.0.mlp.up_proj"](mx.eye(weight.shape[1])).T
    assert relative_error(quantised, weight) < 0.01


@pytest.mark.parametrize("rename", [language_names, newer_names])
def test_other_spellings(tmp_path, rename):
    config = settings()
    if rename is language_names:
        config = {**config["text_config"], "model_type": "gemma3_text"}
        config.setdefault("vocab_size", settings().get("vocab_size"))
    folder = copy_gemma(tmp_path / "gemma", config, rename)
    conversion = prepare(made().checkpoint, folder, shard_bytes=run.SHARD_BYTES)
    assert conversion.plan.faults == []
    out = run.convert(conversion, tmp_path / "out")
    (name,) = (path.name for path in out.text_encoder.glob("model*.safetensors"))
    assert (out.text_encoder / name).read_bytes() == (converted().text_encoder / name).read_bytes()
    ours, theirs = (json.loads((m.text_encoder / "config.json").read_text()) for m in (out, converted()))
    assert ours == theirs


def test_rotary_settings_survive():
    """The global layers' factor of 8 and both bases, wherever the source's config keeps them."""
    config = json.loads((converted().text_encoder / "config.json").read_text())
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (1e6, 1e4)


def test_config_saved_again_by_transformers_5(tmp_path):
    config = settings()
    text = config["text_config"]
    for key in ("rope_theta", "rope_local_base_freq", "rope_scaling", "sliding_window_pattern"):
        text.pop(key, None)
    pattern = json.loads((converted().text_encoder / "config.json").read_text())["sliding_window_pattern"]
    layers = text["num_hidden_layers"]
    text["layer_types"] = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers)]
    text["rope_parameters"] = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    folder = copy_gemma(tmp_path / "gemma", config)
    written = prepare(made().checkpoint, folder).text.gemma.config
    assert written["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert (written["rope_theta"], written["rope_local_base_freq"]) == (1e6, 1e4)
    assert written["sliding_window_pattern"] == pattern


def test_config_without_rotary_settings(tmp_path):
    config = settings()
    for key in ("rope_scaling", "rope_parameters"):
        config["text_config"].pop(key, None)
    with pytest.raises(UserError, match="no rotary settings"):
        prepare(made().checkpoint, copy_gemma(tmp_path / "gemma", config))


def test_tokenizer_is_copied():
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (converted().text_encoder / name).read_bytes() == (made().gemma / name).read_bytes()


def without(name):
    return lambda folder: (folder / name).unlink()


def no_weights(folder):
    for file in folder.glob("*.safetensors"):
        file.unlink()


def cut(folder):
    file = sorted(folder.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-10])


def quantised(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization": {"bits": 4, "group_size": 64}}))


def another_model(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "rope_scaling": None}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without("config.json"), "no config.json"),
        (without("tokenizer.json"), "no tokenizer.json"),
        (without("tokenizer_config.json"), "no tokenizer_config.json"),
        (no_weights, r"has no model\*\.safetensors"),
        (cut, "truncated"),
        (quantised, "quantised already"),
        (another_model, "not a Gemma-3"),
    ],
)
def test_damaged_folders(tmp_path, damage, said):
    folder = copy_gemma(tmp_path / "gemma")
    damage(folder)
    with pytest.raises(UserError, match=said):
        prepare(made().checkpoint, folder)


def test_missing_tensors_are_listed(tmp_path):
    folder = copy_gemma(tmp_path / "gemma", rename=lambda name: None if name.endswith("q_proj.weight") else name)
    layers = settings()["text_config"]["num_hidden_layers"]
    faults = prepare(made().checkpoint, folder).plan.faults
    assert faults == [f"text_encoder: missing: model.layers.*.self_attn.q_proj.weight ({layers} tensors)"]


def test_group_size_that_divides_no_width(tmp_path):
    """With groups of 128 the tiny Gemma (width 32) stays as it is, and says so by having no quantised layer."""
    conversion = prepare(made().checkpoint, quantization=Quantization.parse("4", 128))
    assert conversion.plan.quantized("text_encoder") == {}
    model = run.convert(conversion, tmp_path / "out")
    assert not [t.name for t in model.tensors("text_encoder") if t.name.endswith(".scales")]
    model.load_text_encoder()
