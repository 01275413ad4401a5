"""Every mistake gets one clear sentence and exit 2, and nothing is lost."""

import errno
import json
import pickle
import resource
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_ltxw.convert import run
from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.model_dir import ModelDir
from tests.convert.made import ROOT, command, contents, edited, made, prepare, read_file, write_file

PREFIX = "model.diffusion_model.transformer_blocks.0."


def checkpoint(tmp_path, change=lambda tensors, metadata: None, name="ltx-2.3-dev.safetensors"):
    return edited(made().checkpoint, tmp_path / name, change)


def convert(source, out, **options):
    return run.convert(prepare(source, **options), out)


def test_the_command_ends_with_2_and_no_traceback(tmp_path):
    done = command("convert", tmp_path / "nothing.safetensors", "-o", tmp_path / "out", "--text-encoder", made().gemma)
    assert done.returncode == 2
    assert "There is no file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_adapter_beside_the_checkpoint_is_left_out_with_a_word(tmp_path, capsys):
    """As people keep them: the folder holds the checkpoint and a LoRA, whose name could pass for the other variant."""
    folder = tmp_path / "ltx"
    folder.mkdir()
    checkpoint(folder)
    pair = {f"diffusion_model.x.lora_{factor}.weight": np.ones((2, 2), np.float32) for factor in "AB"}
    save_file(pair, folder / "ltx-2.3-distilled-lora.safetensors")
    conversion = prepare(folder, data=False)
    assert "ltx-2.3-distilled-lora.safetensors is an adapter (LoRA) and is left out" in capsys.readouterr().err
    assert [path.name for path in conversion.source.paths] == ["ltx-2.3-dev.safetensors"]
    assert conversion.plan.placed == conversion.plan.total > 600
    assert conversion.variant == "dev"
    (folder / "ltx-2.3-dev.safetensors").unlink()
    with pytest.raises(UserError, match="This is an adapter"):
        prepare(folder, data=False)


def test_truncated_file(tmp_path):
    path = checkpoint(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="truncated"):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert prepare(path, data=False).plan.placed > 600  # a dry run needs the header alone


def test_file_that_shrinks_during_the_run(tmp_path):
    path = checkpoint(tmp_path)
    conversion = prepare(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="it has become shorter"):
        run.convert(conversion, tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "moment"),
    [
        ("ltx-dev.safetensors", "_hash_sources"),
        ("ltx-dev.safetensors", "write_shard"),
        ("ltx-dev.safetensors", "_check_unchanged"),
        ("gemma/tokenizer.json", "_fingerprint"),
        ("gemma/tokenizer.json", "_check_unchanged"),
    ],
)
def test_a_source_that_goes_is_named(tmp_path, monkeypatch, file, moment):
    """And not the directory that is written."""
    source = shutil.copy(made().checkpoint, tmp_path / "ltx-dev.safetensors")
    conversion, real = prepare(source, shutil.copytree(made().gemma, tmp_path / "gemma")), getattr(run, moment)

    def gone(*given):
        (tmp_path / file).unlink(missing_ok=True)
        return real(*given)

    monkeypatch.setattr(run, moment, gone)
    with pytest.raises(UserError, match=rf"{file} can no longer be read|There is no file .*{file}"):
        run.convert(conversion, tmp_path / "out")


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("BF16", 0x7FC0), ("BF16", 0x7F80), ("BF16", 0xFF80), ("F32", 0x7FC00000), ("F32", 0xFF800000)],
)
@pytest.mark.parametrize("quantize", [None, "8"])
def test_nan_and_infinity(tmp_path, dtype, bits, quantize):
    """One bad value, the last of its tensor: named, nothing half-written, no model."""
    from mlx_ltxw.convert.quantize import Quantization

    name = PREFIX + ("scale_shift_table" if dtype == "F32" else "ff.net.0.proj.weight")

    def change(tensors, metadata):
        _, shape, raw = tensors[name]
        size = 4 if dtype == "F32" else 2
        tensors[name] = (dtype, shape, raw[:-size] + bits.to_bytes(size, "little"))

    how = Quantization.parse(quantize, 32) if quantize else None
    with pytest.raises(UserError, match=f"{name} in .* has 1 values that are NaN or infinite"):
        convert(checkpoint(tmp_path, change), tmp_path / "out", quantization=how)
    assert not list((tmp_path / "out").rglob("*.part"))
    with pytest.raises(UserError, match="not a finished model"):
        ModelDir.open(tmp_path / "out")


def test_nan_in_a_conv(tmp_path):
    """A tensor whose axes move takes another way through the code."""
    name = "vae.decoder.conv_in.conv.weight"

    def change(tensors, metadata):
        dtype, shape, raw = tensors[name]
        tensors[name] = (dtype, shape, b"\xc0\x7f" + raw[2:])

    with pytest.raises(UserError, match=name):
        convert(checkpoint(tmp_path, change), tmp_path / "out")


def test_fp8_nan(tmp_path):
    def change(tensors, metadata):
        name, (dtype, shape, raw) = next((n, t) for n, t in tensors.items() if t[0] == "F8_E4M3")
        tensors[name] = (dtype, shape, b"\xff" + raw[1:])

    path = edited(made(fp8=True).checkpoint, tmp_path / "ltx-dev.safetensors", change)
    with pytest.raises(UserError, match="NaN or infinite"):
        convert(path, tmp_path / "out")


FULL_DISK = """
import resource, sys
from pathlib import Path
from mlx_ltxw.convert import run
from mlx_ltxw.errors import UserError
job = run.prepare(sys.argv[1], sys.argv[2], shard_bytes=200_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    run.convert(job, Path(sys.argv[3]))
except UserError as error:
    sys.exit(f"said: {error}")
"""


def test_disk_that_takes_no_more(tmp_path):
    """Files may not grow past 100 kB in the child: it says so, leaves no part, and a run with room continues."""
    source, out = made(), tmp_path / "out"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    child = subprocess.run(
        [sys.executable, "-c", FULL_DISK, source.checkpoint, source.gemma, out],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert "could not be written: File too large. Free some space and run the same command again" in child.stderr
    assert "it continues where it stopped" in child.stderr
    assert not list(out.rglob("*.part"))
    with pytest.raises(UserError, match="not a finished model"):
        ModelDir.open(out)
    convert(source.checkpoint, out)
    assert ModelDir.open(out).variant == "dev"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_disk_that_is_full_midway(small_disk, monkeypatch):
    """The check of free space is blinded, so that the disk itself says no."""
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**12}))
    with pytest.raises(UserError, match="No space left"):
        convert(made().checkpoint, small_disk / "out")
    assert list((small_disk / "out").rglob("*.safetensors"))  # what was finished stays
    assert not list((small_disk / "out").rglob("*.part"))


def test_too_small_disk_is_told_before(tmp_path, monkeypatch):
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(UserError, match=r"needs 69\.\d MB more, and its disk has 1\.0 MB free"):
        convert(made().checkpoint, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.safetensors*"))


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / "out", tmp_path / "file"):
        with pytest.raises(UserError, match=r"could not be written|is a file"):
            convert(made().checkpoint, out)
    assert (tmp_path / "file").read_text() == "mine"


def test_read_only_output(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.mkdir", refused)
    with pytest.raises(UserError, match="Read-only file system"):
        convert(made().checkpoint, tmp_path / "out")


def test_output_directory_with_other_files(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files, such as thesis\.txt"):
        convert(made().checkpoint, out)
    assert contents(out) == {"thesis.txt": b"mine"}


def test_missing_gemma(tmp_path):
    done = command("convert", made().checkpoint, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "--text-encoder" in done.stderr
    assert "gemma-3-12b-it-qat-q4_0-unquantized" in done.stderr
    done = command("convert", made().checkpoint, "-o", tmp_path / "out", "--text-encoder", tmp_path / "nowhere" / "x/y")
    assert done.returncode == 2
    assert "There is no text encoder directory" in done.stderr


def test_variant_that_nothing_tells(tmp_path):
    path = checkpoint(tmp_path, name="model.safetensors")
    with pytest.raises(UserError, match="Add variant=dev or variant=distilled"):
        convert(path, tmp_path / "out")
    assert convert(path, tmp_path / "out", variant="distilled").variant == "distilled"


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("ltx-2.3-22b-dev.safetensors", "dev"),
        ("ltx-2.3-22b-dev-fp8.safetensors", "dev"),
        ("ltx-2.3-22b-distilled-1.1.safetensors", "distilled"),
        ("LTX_2.3_Distilled.safetensors", "distilled"),
        ("developer.safetensors", None),
        ("dev-distilled.safetensors", None),
    ],
)
def test_variant_from_the_name(tmp_path, name, variant):
    assert prepare(checkpoint(tmp_path, name=name), data=False).variant == variant


def test_pickles(tmp_path):
    """Refused by content and by name, and never opened by anything that could run them."""

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    zipped, plain, named = tmp_path / "a.safetensors", tmp_path / "b.ckpt", tmp_path / "c.pt"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    plain.write_bytes(pickle.dumps(Bomb(), 2))
    named.write_bytes(made().checkpoint.read_bytes())
    for path in (zipped, plain, named):
        with pytest.raises(UserError, match="never opened"):
            prepare(path)
    folder = tmp_path / "folder"
    folder.mkdir()
    plain.rename(folder / "model.ckpt")
    with pytest.raises(UserError, match=r"model\.ckpt is a pickle"):
        prepare(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("raw", [b"", b"hello", bytes(8), b"\xff" * 64, b"GGUF" + bytes(100)])
def test_not_a_safetensors_file(tmp_path, raw):
    path = tmp_path / "ltx-dev.safetensors"
    path.write_bytes(raw)
    with pytest.raises(UserError, match="safetensors"):
        prepare(path)


def lora(tensors, metadata):
    tensors.clear()
    tensors["diffusion_model.transformer_blocks.0.audio_attn1.to_q.lora_A.weight"] = ("BF16", [1, 2], bytes(4))


def upscaler(tensors, metadata):
    tensors.clear()
    tensors["initial_conv.weight"] = ("BF16", [1, 2], bytes(4))
    metadata["config"] = json.dumps({"_class_name": "LatentUpsampler"})


def nvfp4(tensors, metadata):
    tensors[f"{PREFIX}attn1.to_q.weight_scale_2"] = ("F32", [], bytes(4))


def ltx_25(tensors, metadata):
    metadata["model_version"] = "2.5.0"


def ltx_25_by_config(tensors, metadata):
    config = json.loads(metadata["config"])
    config["transformer"]["use_keyframes_abs_pos_embedding"] = True
    metadata.update(config=json.dumps(config))
    del metadata["model_version"]


def ltx_19b(tensors, metadata):
    metadata["model_version"] = "2.0.0"


def ltx_19b_by_names(tensors, metadata):
    del metadata["model_version"]
    tensors["model.diffusion_model.caption_projection.linear_1.weight"] = ("BF16", [1, 2], bytes(4))


def another_model(tensors, metadata):
    tensors.clear()
    tensors["model.layers.0.mlp.up_proj.weight"] = ("BF16", [1, 2], bytes(4))


def video_only(tensors, metadata):
    for name in [n for n in tensors if "audio" in n or n.startswith("vocoder")]:
        del tensors[name]


def no_config(tensors, metadata):
    del metadata["config"]


def broken_config(tensors, metadata):
    metadata["config"] = "{"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lora, "is an adapter"),
        (upscaler, "latent upsampler"),
        (nvfp4, "NVFP4"),
        (ltx_25, r"LTX-2\.5 checkpoint \(model_version 2\.5\.0\)"),
        (ltx_25_by_config, r"LTX-2\.5"),
        (ltx_19b, r"LTX-2 \(19B\) checkpoint \(model_version 2\.0\.0\)"),
        (ltx_19b_by_names, r"LTX-2 \(19B\)"),
        (another_model, r"not an LTX-2\.3 checkpoint: it holds model\.layers"),
        (video_only, r"not an LTX-2\.3 checkpoint"),
        (no_config, "has no 'config'"),
        (broken_config, "not valid JSON"),
    ],
)
def test_wrong_model(tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        prepare(checkpoint(tmp_path, change))


def test_the_same_tensor_twice(tmp_path):
    checkpoint(tmp_path, name="ltx-dev-a.safetensors")
    checkpoint(tmp_path, name="ltx-dev-b.safetensors")
    with pytest.raises(UserError, match=r"ltx-dev-a\.safetensors and ltx-dev-b\.safetensors both hold"):
        prepare(tmp_path)


def test_two_variants_in_a_directory(tmp_path):
    checkpoint(tmp_path, name="ltx-dev.safetensors")
    checkpoint(tmp_path, name="ltx-distilled.safetensors")
    assert prepare(tmp_path, variant="distilled", data=False).variant == "distilled"
    with pytest.raises(UserError, match="both hold"):
        prepare(tmp_path)


def test_parts_of_two_checkpoints(tmp_path):
    """Split files whose configs disagree are not one model."""
    for file in made(split=True).files:

        def change(tensors, metadata, file=file):
            config = json.loads(metadata["config"])
            config["transformer"]["norm_eps"] = 1e-5 if "vae" in file.name else 1e-6
            metadata["config"] = json.dumps(config)

        edited(file, tmp_path / file.name, change)
    with pytest.raises(UserError, match="disagree about the config section 'transformer'"):
        prepare(tmp_path)


@pytest.mark.parametrize("file", ["manifest.json", "model_index.json"])
def test_directories_of_other_formats(tmp_path, file):
    (tmp_path / file).write_text("{}")
    with pytest.raises(UserError, match=r"converted model already|diffusers' layout"):
        prepare(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("-q", "5"),
        ("--group-size", "32"),
        ("-q", "mxfp4", "--group-size", "64"),
        ("--variant", "turbo"),
        ("--revision", "main"),
        ("--no-such-option",),
    ],
)
def test_options_that_do_not_fit(tmp_path, arguments):
    done = command("convert", made().checkpoint, "-o", tmp_path / "out", "--text-encoder", made().gemma, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_no_output_directory():
    done = command("convert", made().checkpoint, "--text-encoder", made().gemma)
    assert done.returncode == 2
    assert "-o" in done.stderr


def test_float64_becomes_float32(tmp_path):
    """MLX has no float64 and refuses the whole file; the value is rounded as NumPy rounds it."""
    name = f"{PREFIX}scale_shift_table"
    values = {}

    def change(tensors, metadata):
        _, shape, raw = tensors[name]
        values["was"] = np.frombuffer(raw, np.float32).astype(np.float64) + 1e-12
        tensors[name] = ("F64", shape, values["was"].tobytes())

    model = convert(checkpoint(tmp_path, change), tmp_path / "out")
    entry = next(t for t in model.tensors("transformer") if t.name == "transformer_blocks.0.scale_shift_table")
    with entry.path.open("rb") as file:
        file.seek(entry.start)
        stored = np.frombuffer(file.read(entry.nbytes), np.float32)
    assert entry.dtype == "F32"
    np.testing.assert_array_equal(stored, values["was"].astype(np.float32))


def test_header_with_a_gap(tmp_path):
    header, data = read_file(made().checkpoint)
    last = max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"][1])
    header[last]["data_offsets"] = [n + 8 for n in header[last]["data_offsets"]]
    with pytest.raises(UserError, match="overlap or leave gaps"):
        prepare(write_file(tmp_path / "ltx-dev.safetensors", header, data + bytes(8)))
