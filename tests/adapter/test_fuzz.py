"""Two thousand damaged adapter files: each loads right or fails with a UserError; no no-op, no traceback."""

import json
import struct

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_ltxw.adapter.apply import adapt
from mlx_ltxw.adapter.container import read_tensors
from mlx_ltxw.adapter.deltas import change
from mlx_ltxw.adapter.formats import read
from mlx_ltxw.adapter.placing import linears, place
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.errors import UserError

SIZES = {
    "transformer_blocks.0.audio_attn1.to_q": (4, 6),
    "transformer_blocks.0.audio_attn1.to_out.0": (6, 4),
    "transformer_blocks.0.video_to_audio_attn.to_k": (4, 4),
    "transformer_blocks.0.audio_ff.net.2": (6, 8),
}
PREFIXES = ("diffusion_model.", "", "transformer.", "base_model.model.", "lora_unet_", "model.", "wrong.", "lora_te_")
ENDINGS = ("lora_A.weight", "lora_B.weight", "lora_down.weight", "lora_up.weight", "lora_A.default.weight", "alpha",
           "dora_scale", "magnitude", "diff", "diff_b", "lokr_w1", "hada_w1_a", "oft_R", "weight", "lora_A", "")  # fmt: skip
DTYPES = ("F32", "F16", "BF16", "F64", "I32", "I64", "F8_E4M3", "U8", "BOOL", "X", "", None, 3)
ITEM = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4", "I64": "<i8"}


def small_model():
    """Linears with official names, and nothing else."""
    root = nn.Module()
    block = nn.Module()
    block.audio_attn1, block.video_to_audio_attn, block.audio_ff = nn.Module(), nn.Module(), nn.Module()
    block.audio_attn1.to_q = nn.Linear(6, 4)
    block.audio_attn1.to_out = [nn.Linear(4, 6)]
    block.video_to_audio_attn.to_k = nn.Linear(4, 4)
    block.audio_ff.net = [nn.Identity(), nn.Identity(), nn.Linear(8, 6)]
    root.transformer_blocks = [block]
    return root


MODEL = small_model()


def sound_file(draw_seed):
    """Entries of a sound file: [name, dtype, shape, bytes], every value well away from zero."""
    draw = np.random.default_rng(draw_seed)
    entries = []
    for name, (out, into) in SIZES.items():
        for end, shape in (("lora_A.weight", (2, into)), ("lora_B.weight", (out, 2))):
            values = draw.uniform(0.5, 1.5, shape).astype("<f4")
            entries.append([f"diffusion_model.{name}.{end}", "F32", list(shape), values.tobytes()])
        if draw_seed % 2:
            entries.append([f"diffusion_model.{name}.alpha", "F32", [], np.float32(3).tobytes()])
    return entries


def encode(entries, metadata=None, length=None):
    """A safetensors file from entries, the header's length a lie if asked for."""
    header, data = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, dtype, shape, content in entries:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@st.composite
def damaged(draw):
    """Bytes of a file with one to three faults, some of them harmless."""
    entries = sound_file(draw(st.integers(0, 9)))
    metadata = length = None
    cut = flip = insert = None
    for _ in range(draw(st.integers(1, 3))):
        i = draw(st.integers(0, len(entries) - 1))
        entry = entries[i]
        fault = draw(st.sampled_from(FAULTS))
        if fault == "prefix_all":
            prefix = draw(st.sampled_from(PREFIXES))
            for e in entries:
                stem, end = split(e[0].removeprefix("diffusion_model."))
                flat = stem.replace(".", "_") if prefix.startswith("lora_") else stem
                e[0] = f"{prefix}{flat}.{end}"
        elif fault == "prefix_one":
            entry[0] = draw(st.sampled_from(PREFIXES)) + entry[0].removeprefix("diffusion_model.")
        elif fault == "letters":
            at = draw(st.integers(0, max(0, len(entry[0]) - 1)))
            entry[0] = entry[0][:at] + draw(st.sampled_from(["", ".", "_", "x", "A", "1", "é", "\ud800"])) + entry[0][at + 1 :]
        elif fault == "ending":
            entry[0] = split(entry[0])[0] + "." + draw(st.sampled_from(ENDINGS))
        elif fault == "shape":
            entry[2] = draw(st.sampled_from([[], [0], [1], entry[2][::-1], entry[2] + [1], [2**40, 2**40], [-1, 3], "x", None,
                                             [1.5], [True, 4]]))  # fmt: skip
        elif fault == "reshape":
            size = draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
            entry[2], entry[3] = list(size), np.full(size, 0.7, "<f4").tobytes()
            entry[1] = "F32"
        elif fault == "dtype":
            entry[1] = draw(st.sampled_from(DTYPES))
        elif fault == "cast":
            entry[1] = draw(st.sampled_from(list(ITEM)))
            values = np.frombuffer(entry[3][: len(entry[3]) // 4 * 4], "<f4")
            entry[3] = values.astype(ITEM[entry[1]]).tobytes()
        elif fault == "value":
            bad = draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e30, 0.0, -2.0]))
            count = len(entry[3]) // 4
            if count:
                values = np.frombuffer(entry[3][: count * 4], "<f4").copy()
                values[draw(st.integers(0, count - 1))] = bad
                entry[3] = values.tobytes()
        elif fault == "drop":
            entries.pop(i)
            if not entries:
                break
        elif fault == "twice":
            entries.append([draw(st.sampled_from(["transformer.", "", "lora_unet_"])) + entry[0], *entry[1:]])
        elif fault == "metadata":
            metadata = draw(st.sampled_from([{"a": 1}, [], "x", {"lora_adapter_metadata": "{"}, {"lora_alpha": "9"},
                                             {"lora_adapter_metadata": '{"transformer.r": 2}'}]))  # fmt: skip
        elif fault == "length":
            length = draw(st.sampled_from([0, 1, 7, 2**20, 2**40, 2**63, 2**64 - 1]))
        elif fault == "cut":
            cut = draw(st.floats(0, 1))
        elif fault == "flip":
            flip = draw(st.tuples(st.floats(0, 1), st.integers(1, 255)))
        elif fault == "insert":
            insert = draw(st.floats(0, 1))
    data = bytearray(encode(entries, metadata, length))
    if flip:
        data[min(len(data) - 1, int(flip[0] * len(data)))] ^= flip[1]
    if insert is not None:
        data.insert(int(insert * len(data)), 7)
    if cut is not None:
        del data[int(cut * len(data)) :]
    return bytes(data)


FAULTS = ("prefix_all", "prefix_one", "letters", "ending", "shape", "reshape", "dtype", "cast", "value", "drop", "twice",
          "metadata", "length", "cut", "flip", "insert")  # fmt: skip


def split(name):
    for end in ("lora_A.weight", "lora_B.weight", "alpha"):
        if name.endswith("." + end):
            return name.removesuffix("." + end), end
    return name, "lora_A.weight"


def expected(path):
    """What a sound file says, worked out on its own: module -> alpha / rank * B A. Refuses by AssertionError."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    flat = {name.replace(".", "_"): name for name in SIZES} | {name: name for name in SIZES}
    modules = {}
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        content = raw[8 + length + begin : 8 + length + end]
        if entry["dtype"] == "BF16":
            wide = np.frombuffer(content, "<u2").astype("<u4") << 16
            values = wide.view("<f4")
        else:
            values = np.frombuffer(content, ITEM[entry["dtype"]])
        values = values.astype(np.float64).reshape(entry["shape"])
        stem, role = key, None
        for role_name, ends in ROLES.items():
            for ending in ends:
                if key.endswith("." + ending):
                    stem, role = key.removesuffix("." + ending), role_name
        assert role, key
        bare = stem
        for prefix in ("base_model.model.", "model.", "diffusion_model.", "transformer.", "lora_unet_", "diffusion_model."):
            bare = bare.removeprefix(prefix)
        modules.setdefault(flat[bare.removesuffix(".default")], {})[role] = values
    result = {}
    for name, parts in modules.items():
        if "diff" in parts:
            result[name] = parts["diff"]
        elif "a" in parts:
            scale = parts["alpha"].item() / parts["a"].shape[0] if "alpha" in parts else 1.0
            result[name] = scale * parts["b"] @ parts["a"]
    return result


ROLES = {
    "a": ("lora_A.weight", "lora_down.weight", "lora_A.default.weight", "lora_A"),
    "b": ("lora_B.weight", "lora_up.weight", "lora_B.default.weight", "lora_B"),
    "alpha": ("alpha",),
    "diff": ("diff",),
    "diff_b": ("diff_b",),
    "dora_scale": ("dora_scale",),
    "magnitude": ("magnitude",),
}
OUTCOMES = {"loaded": 0, "refused": 0}


@settings(max_examples=2000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(damaged())
def test_damaged_files_load_right_or_say_why(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(content)
    try:
        adapter = read(path)
        placement = place(adapter, MODEL)
    except UserError as error:
        OUTCOMES["refused"] += 1
        assert error.message.endswith(".") and error.hint
        str(error).encode()
        return
    OUTCOMES["loaded"] += 1
    assert len(placement.placed) == placement.total > 0
    raw = read_tensors(path)
    assert raw.tensors  # every tensor was read, and every one has a place:
    want, here = expected(path), linears(MODEL)
    assert set(adapter.deltas) == set(want)
    adapted = linears(adapt(MODEL, [(adapter, Strength())]))
    for name, delta in want.items():
        assert name not in adapted  # wrapped
        if name in adapter.deltas and type(adapter.deltas[name]).__name__ in ("LowRank", "Full"):
            got = np.asarray(change(adapter.deltas[name], here[name].weight), np.float64)
            assert np.allclose(got, delta, rtol=1e-5, atol=1e-6 * np.abs(delta).max())


def test_the_fuzz_above_saw_both_outcomes():
    if sum(OUTCOMES.values()) < 2000:
        pytest.skip("runs after the fuzz")
    assert OUTCOMES["loaded"] > 100
    assert OUTCOMES["refused"] > 1000


@pytest.mark.parametrize("seed", range(4))
def test_sound_files_load(tmp_path, seed):
    """The fuzz's starting points are sound."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(encode(sound_file(seed)))
    adapter = read(path)
    assert place(adapter, MODEL).summary.startswith("placed 4 of 4")
    for name, delta in expected(path).items():
        assert np.allclose(np.asarray(adapter.deltas[name].dense()), delta, rtol=1e-5)


def test_zero_dimensional_bf16(tmp_path):
    """An alpha as a bf16 scalar: 2.0 is 0x4000."""
    entries = [e for e in sound_file(0) if not e[0].endswith("alpha")]
    entries += [[f"diffusion_model.{name}.alpha", "BF16", [], b"\x00\x40"] for name in SIZES]
    path = tmp_path / "a.safetensors"
    path.write_bytes(encode(entries))
    assert {delta.scale for delta in read(path).deltas.values()} == {1.0}
    assert read_tensors(path).tensors[f"diffusion_model.{next(iter(SIZES))}.alpha"].dtype == mx.bfloat16
