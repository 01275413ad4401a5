"""A model directory: refused unless whole, loaded strictly, in the dtypes that fidelity needs."""

import json
import os
import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.components import COMPONENTS, audio_side
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.opening import open_dir
from tests.convert.made import converted, edited


def copied(target, *arguments):
    """A copy that a test may damage; `open_again` accepts whatever sizes its files have then."""
    return shutil.copytree(converted(*arguments).path, target)


def open_again(folder):
    """Opens a directory whose files a test changed: the manifest is made to agree."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, record in manifest["files"].items():
        record["size"] = (folder / name).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return ModelDir.open(folder)


def test_manifest_makes_the_model(tmp_path):
    folder = copied(tmp_path / "model")
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"not a finished model: it has no manifest\.json"):
        ModelDir.open(folder)


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        ([], "one that was cut goes on"),
        ([".convert/journal.json", "config.json"], "one that was cut goes on"),
        ([".cache/huggingface/x", "config.json"], "one that was cut goes on"),
        (["transformer.video-00002-of-00007.safetensors"], "one that was cut goes on"),
        (["config.json", "model.safetensors", "tokenizer.json"], "give a text encoder as text_encoder"),
        (["model_index.json", "vae/diffusion_pytorch_model.safetensors"], "Name a directory that `mlx-ltxw convert`"),
    ],
)
def test_what_a_directory_without_a_manifest_is(tmp_path, names, hint):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="not a finished model") as told:
        open_dir(tmp_path)
    assert hint in told.value.hint


def test_a_checkpoint_is_no_directory(tmp_path):
    (tmp_path / "ltx.safetensors").touch()
    with pytest.raises(UserError, match="is a file, and a model is a directory") as told:
        open_dir(tmp_path / "ltx.safetensors")
    assert f"`mlx-ltxw convert {tmp_path / 'ltx.safetensors'} -o DIR`" in told.value.hint


def test_no_directory(tmp_path):
    with pytest.raises(UserError, match="There is no model directory"):
        ModelDir.open(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"format": 99, "files": {}, "fingerprint": ""}', '{"format": 1}'])
def test_manifests_that_are_none(tmp_path, text):
    folder = copied(tmp_path / "model")
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError):
        ModelDir.open(folder)


def test_missing_and_cut_files_are_all_named(tmp_path):
    folder = copied(tmp_path / "model")
    gone, cut = next(folder.glob("audio_vae-*")), next(folder.glob("vocoder-*"))
    gone.unlink()
    os.truncate(cut, 100)
    with pytest.raises(UserError) as error:
        ModelDir.open(folder)
    assert f"{gone.name} is missing" in str(error.value)
    assert f"{cut.name} has 100 bytes instead of" in str(error.value)


def test_verify_reads_every_byte(tmp_path):
    folder = copied(tmp_path / "model")
    seen = []
    ModelDir.open(folder).verify(seen.append)
    assert sum(seen) == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    file = folder / "text_encoder" / "tokenizer.json"
    file.write_bytes(file.read_bytes().replace(b"a", b"b", 1))
    with pytest.raises(UserError, match=r"sha256 of text_encoder/tokenizer\.json"):
        ModelDir.open(folder).verify()


def rename(tensors, metadata):
    tensors["decoder.conv_out.conv.offset"] = tensors.pop("decoder.conv_out.conv.bias")


def reshape(tensors, metadata):
    dtype, shape, raw = tensors["encoder.conv_in.conv.weight"]
    tensors["encoder.conv_in.conv.weight"] = (dtype, [shape[0], shape[-1], *shape[1:-1]], raw)


def test_loading_lists_all_mismatches(tmp_path):
    """Missing, unexpected and misshapen at once; nothing is loaded in part."""

    def change(tensors, metadata):
        reshape(tensors, metadata)
        rename(tensors, metadata)

    folder = copied(tmp_path / "model")
    file = next(folder.glob("video_vae-*"))
    edited(file, file, change)
    index = folder / "video_vae.safetensors.index.json"
    index.write_text(index.read_text().replace("conv_out.conv.bias", "conv_out.conv.offset"))
    with pytest.raises(UserError) as error:
        open_again(folder).load("video_vae")
    for part in (
        "missing: decoder.conv_out.conv.bias",
        "unexpected: decoder.conv_out.conv.offset",
        "encoder.conv_in.conv.weight is [",
    ):
        assert part in str(error.value)


def test_damaged_shard(tmp_path):
    folder = copied(tmp_path / "model")
    file = next(folder.glob("connectors-*"))
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(UserError, match="no length of a header"):
        open_again(folder).load("connectors")


def test_audio_only_needs_no_video_file(tmp_path):
    """With the video side's files gone, the audio transformer loads and computes; the whole one does not load."""
    folder = copied(tmp_path / "model")
    model = ModelDir.open(folder)
    whole = dict(tree_flatten(model.load("transformer", mx.float32).parameters()))
    mx.eval(whole)
    for file in folder.glob("transformer.video-*"):
        file.unlink()
    audio = dict(tree_flatten(model.load("transformer", mx.float32, audio_only=True).parameters()))
    assert set(audio) == {name for name in whole if audio_side(name)}
    assert len(audio) < len(whole) / 2
    for name, array in audio.items():
        np.testing.assert_array_equal(np.array(array), np.array(whole[name]))
    with pytest.raises(UserError):
        model.load("transformer")


def test_audio_only_of_a_quantised_model():
    model = converted("8", 32)
    layers = dict(model.load("transformer", audio_only=True).named_modules())
    quantised = {path for path, layer in layers.items() if type(layer).__name__ == "PackedLinear"}
    assert quantised == {path for path in model.quantized_layers("transformer") if audio_side(path)}
    assert quantised


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_dtypes(dtype):
    """The vocoder and the tables are float32, whatever the model; all else is what was asked for."""
    model = converted()
    for component in COMPONENTS:
        for name, array in tree_flatten(model.load(component, dtype).parameters()):
            exact = component == "vocoder" or "scale_shift_table" in name
            assert array.dtype == (mx.float32 if exact else dtype), f"{component} {name}"


def test_quantised_dtypes():
    """Packed weights and shared exponents stay integers; affine scales take the network's dtype."""
    for name, integers in (("8", {"weight"}), ("mxfp8", {"weight", "scales"})):
        model = converted(name, 32)
        network = dict(model.load("transformer", mx.float32).named_modules())
        for path in model.quantized_layers("transformer"):
            arrays = {k: v for k, v in network[path].items() if isinstance(v, mx.array)}
            assert {k for k, v in arrays.items() if v.dtype in (mx.uint32, mx.uint8)} == integers
            assert {v.dtype for k, v in arrays.items() if k not in integers} == {mx.float32}


def test_default_dtype_on_the_cpu():
    assert mx.default_device() == mx.Device(mx.cpu)
    network = converted().load("audio_vae")
    assert {array.dtype for _, array in tree_flatten(network.parameters())} == {mx.float32}


def test_layers_that_the_network_lacks(tmp_path):
    folder = copied(tmp_path / "model", "8", 32)
    config = json.loads((folder / "config.json").read_text())
    settings = config["quantization"]["transformer"]
    settings["transformer_blocks.99.attn1.to_q"] = {"group_size": 32, "bits": 8, "mode": "affine"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"transformer_blocks\.99\.attn1\.to_q"):
        open_again(folder).load("transformer")


def test_variant_that_is_none(tmp_path):
    folder = copied(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "variant": "turbo"}))
    with pytest.raises(UserError, match="not what convert writes"):
        open_again(folder)


def test_loading_reads_nothing_yet():
    """Weights come from the disk when they are used: loading a network allocates next to nothing."""
    model = converted()
    before = mx.get_active_memory()
    network = model.load("audio_vae", mx.float32)
    stored = sum(t.nbytes for t in model.tensors("audio_vae"))
    assert mx.get_active_memory() - before < stored / 10
    mx.eval(network.parameters())
    assert mx.get_active_memory() - before > stored


def test_text_encoder_loads():
    encoder = converted().load_text_encoder()
    ids, mask = encoder.tokenize(["a whisper"])
    states = encoder.hidden_states(ids, mask)
    assert states.dtype == mx.float32
    assert mx.isfinite(states).all().item()
