"""Damaged headers, manifests, configs and indexes of a model directory: opened as it is, or refused in a sentence."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.resolve import defaults_for
from mlx_ltxw.takes.describe import describe
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.components import COMPONENTS
from mlx_ltxw.weights.header import parse_header, read_header
from mlx_ltxw.weights.opening import open_dir
from tests.properties import as_json, damaged_bytes, damaged_values, examples

LISTS = ("manifest.json", "config.json", "text_encoder/config.json", "video_vae.safetensors.index.json",
         "text_encoder/tokenizer_config.json")  # fmt: skip
ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
HEADER = {"__metadata__": {"config": "{}", "format": "pt"}, "a.weight": ENTRY, "b": ENTRY | {"data_offsets": [24, 48]}}


def whole_file(header):
    text = as_json(header)
    return len(text).to_bytes(8, "little") + text + bytes(48)


@examples(200)
@given(st.one_of(damaged_values(HEADER).map(whole_file), damaged_bytes(whole_file(HEADER))))
def test_any_header_is_sound_or_refused(tmp_path, content):
    """What it says of a tensor fits its size, and lies in the file where the file is said to be whole."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    try:
        header = read_header(path)
        header.check_complete()
    except UserError as error:
        str(error).encode()
        return
    for tensor in header.tensors.values():
        assert 0 <= tensor.start <= tensor.stop <= len(content)
        assert all(size >= 0 for size in tensor.shape)
    assert all(isinstance(value, str) for value in header.metadata.values())


@examples(100)
@given(st.binary(max_size=40), st.integers(0, 2**64))
def test_any_bytes_are_no_header(tmp_path, raw, size):
    try:
        header = parse_header(tmp_path / "a.safetensors", raw, size)
    except UserError:
        return
    assert header.tensors == {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model that ships, by links: only the lists are written to."""
    folder = tmp_path_factory.mktemp("any") / "model"
    for file in BUILTIN_MODEL.rglob("*"):
        target = folder / file.relative_to(BUILTIN_MODEL)
        if file.is_dir():
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".json":
                shutil.copy(file, target)
            else:
                target.symlink_to(file)
    return folder


def everything(folder):
    """What commands ask of a model before they load a tensor."""
    model = open_dir(folder)
    for component in COMPONENTS:
        model.network_config(component)
        model.tensors(component)
        model.quantized_layers(component)
    defaults_for(model.variant, model.generation)
    json.dumps([model.identity, model.notes(True), model.notes(False), model.lines, model.upsamplers])
    str(describe(str(folder)))
    model.text_digests()


@examples(15)
@given(data=st.data())
def test_any_list_of_a_model_is_sound_or_refused(folder, data):
    name = data.draw(st.sampled_from([name for name in LISTS if (folder / name).exists()]))
    file = folder / name
    before = file.read_bytes()
    try:
        if data.draw(st.integers(0, 3)):
            file.write_bytes(as_json(data.draw(damaged_values(json.loads(before)))))
        else:
            file.write_bytes(data.draw(damaged_bytes(before)))
        if name != "manifest.json":  # whose sizes would tell
            manifest = json.loads((folder / "manifest.json").read_text())
            manifest["files"][name]["size"] = file.stat().st_size
            kept = (folder / "manifest.json").read_text()
            (folder / "manifest.json").write_text(json.dumps(manifest))
        try:
            everything(folder)
        except UserError as error:
            str(error).encode()
        if name != "manifest.json":
            (folder / "manifest.json").write_text(kept)
    finally:
        file.write_bytes(before)


def test_the_model_is_sound_to_begin_with(folder):
    everything(folder)
