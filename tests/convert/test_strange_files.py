"""Sources that are nearly what `convert` reads: the same model to the bit, or a sentence before anything is written."""

import json
import shutil

import numpy as np
import pytest

from mlx_ltxw.convert import run
from mlx_ltxw.convert.quantize import Quantization
from mlx_ltxw.convert.tensors import pieces
from mlx_ltxw.errors import UserError
from tests.convert.made import contents, converted, edited, made, prepare, read_file, write_file
from tests.convert.test_gemma import copy_gemma

BLOCK = "model.diffusion_model.transformer_blocks.0."
QUERY = f"{BLOCK}attn1.to_q.weight"


def checkpoint(folder, change, source=None):
    return edited(source or made().checkpoint, folder / "ltx-2.3-dev.safetensors", change)


def weights(folder):
    return {name: raw for name, raw in contents(folder).items() if name.endswith(".safetensors")}


def in_pieces(folder, count, metadata=lambda number, own: own):
    """The made checkpoint cut as the Hub's tools cut: `model-00001-of-0000N.safetensors`, and an index that lies."""
    header, data = read_file(made().checkpoint)
    own, names = header.pop("__metadata__"), list(header)
    folder.mkdir()
    for number in range(count):
        piece, raw = {"__metadata__": metadata(number, own)}, b""
        for name in names[number::count]:
            part = data[slice(*header[name]["data_offsets"])]
            piece[name] = {**header[name], "data_offsets": [len(raw), len(raw) + len(part)]}
            raw += part
        write_file(folder / f"model-{number + 1:05d}-of-{count:05d}.safetensors", piece, raw)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, "x")}))
    return folder


def test_pieces_make_the_same_model(tmp_path):
    """Whatever the index says; what macOS writes beside files and into folders is no weights and no other file."""
    folder = in_pieces(tmp_path / "ltx-2.3-dev", 3)
    (folder / "model-00003-of-00003.safetensors").rename(folder / "model-00003-of-00003.SAFETENSORS")
    for number in (1, 2):
        (folder / f"model-{number:05d}-of-00003.safetensors").rename(
            folder / f"model-{number:05d}-of-00003.SAFETENSORS"
        )
    (folder / "._model-00001-of-00003.SAFETENSORS").write_bytes(b"\0\5\x16\7Mac OS X")
    out = tmp_path / "out"
    out.mkdir()
    (out / ".DS_Store").write_bytes(b"x")
    run.convert(run.prepare(str(folder), str(made().gemma)), out)
    assert weights(out) == weights(converted().path)


@pytest.mark.parametrize("of", ["checkpoint", "text encoder"])
def test_pieces_that_are_missing(tmp_path, of):
    """As after a download that was cut; the names say which, before anything is read."""
    source, gemma = in_pieces(tmp_path / "ltx-2.3-dev", 3), copy_gemma(tmp_path / "gemma")
    gone = next((source if of == "checkpoint" else gemma).glob("model-00002-of-*"))
    gone.unlink()
    with pytest.raises(UserError, match=f"only a part of its weights: there is no {gone.name}") as error:
        prepare(source, gemma, data=False)
    assert "Download" in error.value.hint


def test_one_piece_is_named(tmp_path):
    source = in_pieces(tmp_path / "ltx-2.3-dev", 3)
    with pytest.raises(UserError, match=r"there is no model-00001-of-00003\.safetensors, no model-00003") as error:
        prepare(source / "model-00002-of-00003.safetensors", data=False)
    assert f"such as {source}" in error.value.hint


def test_pieces_of_two_generations(tmp_path):
    source = in_pieces(tmp_path / "dev", 2, lambda number, own: {**own, "model_version": ("2.3.0", "2.5.0")[number]})
    with pytest.raises(UserError, match=r"disagree about model_version: 2\.3\.0 and 2\.5\.0"):
        prepare(source, data=False)


@pytest.mark.parametrize("dtype", ["I64", "I32", "I8", "U8", "BOOL", "F8_E5M2"])
@pytest.mark.parametrize("name", [QUERY, "vocoder.vocoder.conv_pre.bias"])
def test_whole_numbers_are_no_weights(tmp_path, name, dtype):
    """They would make a model that no run can load."""
    size = {"I64": 8, "I32": 4}.get(dtype, 1)

    def change(tensors, metadata):
        _, shape, _ = tensors[name]
        tensors[name] = (dtype, shape, bytes(size * int(np.prod(shape))))

    with pytest.raises(UserError, match=f"{name} has dtype {dtype}"):
        prepare(checkpoint(tmp_path, change), data=False)


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        ("transformer", None, "no section 'transformer'"),
        ("transformer", [], "no section 'transformer'"),
        ("mlx_ltxw", [1], "'mlx_ltxw' cannot be used: it is no table"),
        ("mlx_ltxw", {"note": "x", "statement": "y"}, "it has no 'license'"),
        ("mlx_ltxw", {"license": "mit", "statement": "y", "generation": [1]}, "its 'generation' is damaged"),
        ("mlx_ltxw", {"license": "mit", "statement": "y", "note": [1]}, "its 'note' is damaged"),
    ],
)
def test_sections_of_the_config(tmp_path, section, value, said):
    def change(tensors, metadata):
        metadata["config"] = json.dumps({**json.loads(metadata["config"]), section: value})

    with pytest.raises(UserError, match=said):
        prepare(checkpoint(tmp_path, change), data=False)


def test_a_later_generation_is_named(tmp_path):
    with pytest.raises(UserError, match=r"This is an LTX-3\.0 checkpoint"):
        prepare(checkpoint(tmp_path, lambda tensors, metadata: metadata.update(model_version="3.0.1")), data=False)


def test_a_network_that_is_not_there_is_one_line(tmp_path):
    def change(tensors, metadata):
        for name in [name for name in tensors if name.startswith("vae.")]:
            del tensors[name]
        tensors[""] = ("BF16", [1], b"\0\0")

    plan = prepare(checkpoint(tmp_path, change), data=False).plan
    assert [line for line in plan.faults if line.startswith("video_vae")] == [
        f"video_vae: none of its {len(converted().tensors('video_vae'))} tensors is there"
    ]
    assert "no component takes ''" in plan.faults


def scales(tensors):
    return [name for name in tensors if name.endswith(".weight_scale")]


def huge(tensors, metadata):
    tensors[scales(tensors)[0]] = ("F32", [], np.float32(3e38).tobytes())


def tiny(tensors, metadata):
    tensors[scales(tensors)[0]] = ("F32", [], np.float32(1e-44).tobytes())


def twice(tensors, metadata):
    name = scales(tensors)[0]
    tensors[name.replace("weight_scale", "scale_weight")] = tensors[name]


@pytest.mark.parametrize(("change", "said"), [(huge, "is no scale"), (tiny, "is no scale"), (twice, "has two scales")])
def test_scales_of_fp8(tmp_path, change, said):
    """One that makes infinity, or nothing, of its weight; and one in both spellings."""
    with pytest.raises(UserError, match=said):
        stored(prepare(checkpoint(tmp_path, change, made(fp8=True).checkpoint)))


def stored(conversion, *names):
    """The bytes that these tensors, or all quantised ones of the source, become."""
    entries = [entry for entry in conversion.plan.entries["transformer"] if entry.scale or entry.source.name in names]
    return [piece for entry in entries for piece in pieces(entry)]


def test_float64_that_float32_cannot_hold(tmp_path):
    name = f"{BLOCK}scale_shift_table"

    def change(tensors, metadata):
        _, shape, _ = tensors[name]
        tensors[name] = ("F64", shape, np.full(shape, 1e39).tobytes())

    with pytest.raises(UserError, match=f"{name} in .* that float32 cannot hold"):
        stored(prepare(checkpoint(tmp_path, change)), name)


def filled(value):
    def change(tensors, metadata):
        _, shape, _ = tensors[QUERY]
        bits = np.array([value], np.float32).view(np.uint32)[0] >> 16
        tensors[QUERY] = ("BF16", shape, np.full(shape, bits, np.uint16).tobytes())

    return change


@pytest.mark.parametrize("mode", ["4", "nvfp4"])
def test_weights_that_quantise_to_nothing(tmp_path, mode):
    """A value below what the mode's scales hold; a constant, whose packed part is zero, is kept by its bias."""
    how = Quantization.parse(mode)
    with pytest.raises(UserError, match=rf"{QUERY} in .* becomes zero in 4 bits .* largest value is 1e-12"):
        stored(prepare(checkpoint(tmp_path, filled(1e-12)), quantization=how), QUERY)
    parts = stored(prepare(checkpoint(tmp_path, filled(1.0)), quantization=how), QUERY)
    assert any(part.any() for part in parts)


@pytest.mark.parametrize("prefix", ["", "language_model.", "model.model."])
def test_gemma_by_any_name(tmp_path, prefix):
    """A text model saved alone has no prefix; whichever it is, the embedding tells."""
    old = "language_model.model."

    def rename(name):
        return name.replace(old, prefix, 1) if name.startswith(old) else name

    settings = json.loads((made().gemma / "config.json").read_text()) | {"quantization_config": None}
    gemma = copy_gemma(tmp_path / "gemma", settings, rename)
    plain, other = (prepare(made().checkpoint, folder, data=False).plan for folder in (made().gemma, gemma))
    names = [(e.name, e.source.shape) for e in plain.entries["text_encoder"]]
    assert other.faults == []
    assert [(e.name, e.source.shape) for e in other.entries["text_encoder"]] == names


def test_gemma_in_two_spellings(tmp_path):
    gemma = copy_gemma(tmp_path / "gemma")
    file = next(gemma.glob("model-00001-*"))

    def change(tensors, metadata):
        name = "language_model.model.layers.0.self_attn.q_proj.weight"
        tensors[name.replace("language_model.model.", "")] = tensors[name]

    shutil.move(edited(file, tmp_path / "changed", change), file)
    with pytest.raises(UserError, match="in several spellings"):
        prepare(made().checkpoint, gemma, data=False)
