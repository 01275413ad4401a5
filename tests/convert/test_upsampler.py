"""Latent upsamplers in a model directory: beside a checkpoint, added later, replaced, refused."""

import json
import os
import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.convert import upsampler as room
from mlx_ltxw.convert.face import convert
from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.manifest import read_manifest
from mlx_ltxw.weights.model_dir import ModelDir
from tests.convert.made import command, contents, converted, edited, made
from tests.hub_server import COMMIT, serving
from tests.numbers import relative_error
from tests.reference import upsampler as reference

NAMES = {
    "spatial-x2": "ltx-2.3-spatial-upscaler-x2-1.1.safetensors",
    "spatial-x1.5": "ltx-2.3-spatial-upscaler-x1.5-1.0.safetensors",
    "temporal-x2": "ltx-2.3-temporal-upscaler-x2-1.0.safetensors",
}


def written(folder, kind="spatial-x2", name="", channels=None, **metadata):
    channels = channels or converted().network_config("video_vae").latent_channels
    path = folder / (name or NAMES[kind])
    values = reference.config(kind, channels, 32)
    return path, reference.write_official(path, values, **metadata)


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(converted().path, tmp_path / "model")


@pytest.mark.parametrize("kind", list(NAMES))
def test_an_upsampler_is_added_to_a_finished_model(model, tmp_path, kind):
    """No other file changes, and the network that is loaded is the official one."""
    before = contents(model)
    path, official = written(tmp_path, kind)
    done = command("convert", path, "-o", model, "--verify")
    assert done.returncode == 0, done.stderr
    assert f"has the upsampler {kind} now, of {path.name}" in done.stderr
    after = contents(model)
    assert {name for name in before if after[name] != before[name]} == {"manifest.json"}
    opened = ModelDir.open(model)
    assert opened.upsamplers == [kind]
    latent = np.random.default_rng(0).standard_normal((1, 3, 2, 4, opened.network_config("video_vae").latent_channels))
    latent = latent.astype(np.float32)
    network = opened.load_upsampler(kind, mx.float32)
    assert relative_error(network(mx.array(latent)), reference.forward(official, latent)) <= 1e-5
    assert kind in command("inspect", model).stdout


def test_upsamplers_beside_a_checkpoint(tmp_path, capsys):
    """Those in the checkpoint's directory are taken, and one that is named; the checkpoint's own fingerprint stays."""
    folder = tmp_path / "release"
    folder.mkdir()
    source = shutil.copy(made().checkpoint, folder / "ltx-2.3-22b-dev.safetensors")
    written(folder, "spatial-x2")
    named, _ = written(tmp_path, "temporal-x2")
    options = {"text_encoder": made().gemma, "upsamplers": [named]}
    model = convert(folder, tmp_path / "out", **options)
    assert model.upsamplers == ["spatial-x2", "temporal-x2"]
    again = convert(folder, tmp_path / "out", **options)
    assert again.files == model.files
    assert (
        "has the upsampler spatial-x2 of ltx-2.3-spatial-upscaler-x2-1.1.safetensors already" in capsys.readouterr().err
    )
    alone = convert(source, tmp_path / "alone", text_encoder=made().gemma)
    assert alone.upsamplers == []
    assert read_manifest(alone.path)[1] == read_manifest(model.path)[1]


def test_official_names_are_looked_for_beside_the_checkpoint(tmp_path):
    """The kind's newest version, or the very name."""
    for version in ("1.0", "1.1", "1.10"):
        written(tmp_path, name=f"ltx-2.3-spatial-upscaler-x2-{version}.safetensors")
    found = room.open_upsampler("spatial-x2", tmp_path)
    assert found.header.path.name == "ltx-2.3-spatial-upscaler-x2-1.10.safetensors"
    found = room.open_upsampler("ltx-2.3-spatial-upscaler-x2-1.0.safetensors", tmp_path)
    assert found.header.path.name == "ltx-2.3-spatial-upscaler-x2-1.0.safetensors"


def test_a_newer_one_takes_the_place_of_its_kind(model, tmp_path):
    first, _ = written(tmp_path, name="ltx-2.3-spatial-upscaler-x2-1.0.safetensors")
    convert(first, model)
    second = tmp_path / NAMES["spatial-x2"]
    reference.write_official(second, reference.config("spatial-x2", channels_of(model), 64), seed=5)
    opened = convert(second, model, verify=True)
    assert opened.upsamplers == ["spatial-x2"]
    assert opened.load_upsampler("spatial-x2").config.mid_channels == 64
    about = json.loads((model / "upsampler.spatial-x2.json").read_text())
    assert list(about["source"]["files"]) == [second.name]


def channels_of(model):
    return ModelDir.open(model).network_config("video_vae").latent_channels


def test_a_run_that_is_cut_leaves_a_whole_model(model, tmp_path, monkeypatch):
    """While a new file takes an old one's place, too."""
    first, _ = written(tmp_path, name="ltx-2.3-spatial-upscaler-x2-1.0.safetensors")
    convert(first, model)
    second, _ = written(tmp_path, license="another file")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "write_shard", fail)
    with pytest.raises(KeyboardInterrupt):
        convert(second, model)
    assert ModelDir.open(model).upsamplers == []
    monkeypatch.undo()
    assert convert(second, model, verify=True).upsamplers == ["spatial-x2"]


def test_dry_run_writes_nothing(tmp_path):
    path, _ = written(tmp_path)
    os.truncate(path, path.stat().st_size - 100)  # the header is enough
    done = command("convert", path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "spatial-x2 latent upsampler, 24 tensors" in done.stdout
    done = command("convert", path, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "truncated" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "metadata", "said"),
    [
        ("ltx-2-spatial-upscaler-x2-1.0.safetensors", {}, r"upsampler of LTX-2, not of LTX-2\.3"),
        ("ltx-2.5-spatial-upscaler-x2-1.0.safetensors", {}, r"upsampler of LTX-2\.5"),
        ("ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0.safetensors", {}, r"upsampler of LTX-2\.5"),
        ("ltxv-spatial-upscaler-0.9.8.safetensors", {}, "upsampler of LTX-Video"),
        ("mine.safetensors", {"model_version": "2.5.0"}, r"upsampler of LTX-2\.5\.0"),
        ("mine.safetensors", {"config": "{"}, "is not valid JSON"),
    ],
)
def test_another_generation_is_refused(model, tmp_path, name, metadata, said):
    path, _ = written(tmp_path, name=name, **metadata)
    before = contents(model)
    with pytest.raises(UserError, match=said):
        convert(path, model)
    assert contents(model) == before


def test_what_does_not_fit_is_refused(model, tmp_path):
    path, _ = written(tmp_path, channels=16 if channels_of(model) != 16 else 32)
    with pytest.raises(UserError, match="it is another model's"):
        convert(path, model)
    path, _ = written(tmp_path)

    def damage(tensors, _):
        del tensors["final_conv.bias"]

    damaged = edited(path, tmp_path / "damaged.safetensors", damage)
    with pytest.raises(UserError, match=r"missing: final_conv\.bias"):
        convert(damaged, model)
    with pytest.raises(UserError, match="takes no"):
        convert(path, model, quantize="4")
    with pytest.raises(UserError, match="There is no model directory"):
        convert(path, tmp_path / "nowhere")
    with pytest.raises(UserError, match="There is no upsampler 'x9'"):
        convert(made().checkpoint, tmp_path / "new", text_encoder=made().gemma, upsamplers=["x9"])
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=r"has no upsampler 'spatial-x2' \(none\)"):
        ModelDir.open(model).load_upsampler("spatial-x2")


def test_from_the_hub(model, tmp_path):
    """A file of a repo, and the official repo's newest of a kind; only what is needed is fetched."""
    names = [f"ltx-2.3-spatial-upscaler-x2-{version}.safetensors" for version in ("1.0", "1.1")]
    files = {name: written(tmp_path, name=name, license=name)[0] for name in names}
    with serving({"owner/ltx": files, "Lightricks/LTX-2.3": files}, tmp_path / "cache") as hub:
        done = command("convert", f"owner/ltx/{names[0]}", "--dry-run", **hub.environment)
        assert done.returncode == 0, done.stderr
        assert f"{names[0]}: spatial-x2 latent upsampler" in done.stdout
        assert sum(size for _, size in hub.sent) < files[names[0]].stat().st_size / 2
        done = command("convert", f"owner/ltx/{names[0]}", "-o", model, **hub.environment)
        assert done.returncode == 0, done.stderr
        about = json.loads((model / "upsampler.spatial-x2.json").read_text())
        assert (about["source"]["repo"], about["source"]["revision"]) == ("owner/ltx", COMMIT)
        hub.sent.clear()
        done = command("convert", "spatial-x2", "-o", model, **hub.environment)
        assert done.returncode == 0, done.stderr
        assert {name for name, _ in hub.sent} == {f"Lightricks/LTX-2.3/{names[1]}"}
        done = command("convert", "temporal-x2", "-o", model, **hub.environment)
        assert done.returncode == 2
        assert "Lightricks/LTX-2.3 has no file temporal-x2" in done.stderr


@pytest.mark.parametrize("dtype", ["I64", "BOOL", "F8_E5M2"])
def test_whole_numbers_are_no_weights(tmp_path, dtype):
    """Nor is what no device computes with; the ending may be in capitals."""
    path, _ = written(tmp_path)

    def change(tensors, metadata):
        _, shape, _ = tensors["final_conv.bias"]
        tensors["final_conv.bias"] = (dtype, shape, bytes(shape[0] * (8 if dtype == "I64" else 1)))

    changed = edited(path, tmp_path / "CHANGED.SAFETENSORS", change)
    assert room.names_upsampler(str(changed))
    with pytest.raises(UserError, match=f"dtype {dtype}, which are no weights"):
        room.open_upsampler(str(changed))
