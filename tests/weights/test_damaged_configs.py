"""Configs that describe no network: refused in one sentence, before anything of their size is built."""

import copy
import json
import resource
import time

import pytest

from mlx_ltxw.convert import run
from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.components import COMPONENTS, IN_CHECKPOINT
from mlx_ltxw.weights.model_dir import ModelDir
from tests.convert.made import converted, edited, made
from tests.weights.test_model_dir import copied, open_again

WRONG = (10**9, 0, "48", -1, None, [], {}, 1.5, True, float("nan"), 10**30)


def paths(values, prefix=()):
    """Where a config holds numbers that size a network; lists by their first entry."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values[:1]):
        if isinstance(value, dict | list):
            yield from paths(value, (*prefix, key))
        elif type(value) in (int, float):
            yield (*prefix, key)


def changed(config, path, value):
    config = copy.deepcopy(config)
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return config


def sizes():
    """(component, path) of every number that its section holds."""
    config = converted().checkpoint_config
    for name in IN_CHECKPOINT:
        section = COMPONENTS[name].section
        yield from ((name, (section, *path)) for path in paths(config[section]))


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_no_number_is_believed_blindly(wrong):
    """Every number of every section in turn: read and built as it is, or refused; never a traceback, never slow."""
    config, began = converted().checkpoint_config, time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for name, path in sizes():
        component = COMPONENTS[name]
        numbers = {"text_width": 1, "text_states": 1} if name == "text_projection" else {}
        names = [tensor.name for tensor in converted().tensors(name)]
        try:
            component.build(component.read_config(changed(config, path, wrong), **numbers), names)
        except UserError:
            refused += 1
    assert refused > 30
    assert time.process_time() - began < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


@pytest.mark.parametrize("layers", [10**9, 0, "48", -3, 3])
def test_a_checkpoint_with_another_number_of_layers(tmp_path, layers):
    def change(tensors, metadata):
        config = json.loads(metadata["config"])
        config["transformer"]["num_layers"] = layers
        metadata["config"] = json.dumps(config)

    path = edited(made().checkpoint, tmp_path / "ltx-dev.safetensors", change)
    with pytest.raises(UserError, match=r"num_layers|has 3 layers, and its tensors have 2"):
        run.prepare(str(path), str(made().gemma))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_hidden_layers", 10**9, "num_hidden_layers"),
        ("num_hidden_layers", 500, "has 500 layers, and its tensors have"),
        ("num_hidden_layers", "2", "num_hidden_layers"),
        ("hidden_size", 0, "hidden_size"),
        ("head_dim", -1, "head_dim"),
        ("rms_norm_eps", "x", "rms_norm_eps"),
        ("sliding_window_pattern", 0, "sliding_window_pattern"),
        ("rope_scaling", [1], "rope_scaling"),
        ("rope_theta", "x", "rotary"),
    ],
)
def test_a_text_encoder_with_other_numbers(tmp_path, key, value, words):
    folder = copied(tmp_path / "model")
    file = folder / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(UserError, match=words):
        open_again(folder).load("text_encoder")


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "a/../../x", "", 3, None, "other.safetensors"]
)
@pytest.mark.parametrize("index", ["vocoder.safetensors.index.json", "text_encoder/model.safetensors.index.json"])
def test_an_index_that_names_other_files(tmp_path, index, name):
    folder = copied(tmp_path / "model")
    source = next(folder.glob("vocoder-*.safetensors"))
    for outside in (tmp_path / "outside.safetensors", folder / "other.safetensors"):
        outside.write_bytes(source.read_bytes())
    content = json.loads((folder / index).read_text())
    content["weight_map"] = dict.fromkeys(content["weight_map"], name)
    (folder / index).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"no file of the model|no index of tensors"):
        open_again(folder).load("text_encoder" if "/" in index else "vocoder")


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 5000, "\ufeff{", "{\x00"]
)
def test_indexes_that_are_none(tmp_path, text):
    folder = copied(tmp_path / "model")
    (folder / "vocoder.safetensors.index.json").write_text(text)
    with pytest.raises(UserError):
        open_again(folder).load("vocoder")


@pytest.mark.parametrize("name", ["../x", "/etc/hostname", "a\\..\\b"])
def test_a_manifest_that_names_other_files(tmp_path, name):
    folder = copied(tmp_path / "model")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"size": 0, "sha256": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="no file in it"):
        ModelDir.open(folder)
