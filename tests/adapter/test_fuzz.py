"""Damaged adapter files: each loads right or fails with a UserError; no no-op, no traceback."""

import json
import re
import struct
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_ltxw.adapter.apply import adapt
from mlx_ltxw.adapter.container import read_tensors
from mlx_ltxw.adapter.deltas import change
from mlx_ltxw.adapter.describe import describe_adapter_file
from mlx_ltxw.adapter.formats import read
from mlx_ltxw.adapter.placing import place
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.errors import UserError
from mlx_ltxw.tree import linears
from tests.properties import as_json, damaged_bytes, damaged_values, examples

SIZES = {
    "transformer_blocks.0.audio_attn1.to_q": (4, 6),
    "transformer_blocks.0.audio_attn1.to_out.0": (6, 4),
    "transformer_blocks.0.video_to_audio_attn.to_k": (4, 4),
    "transformer_blocks.0.audio_ff.net.2": (6, 8),
}
PREFIXES = ("diffusion_model.", "", "transformer.", "base_model.model.", "lora_unet_", "model.", "wrong.", "lora_te_")
ENDINGS = ["lora_A.weight", "lora_B.weight", "lora_down.weight", "lora_up.weight", "lora_A.default.weight", "alpha"]
ENDINGS += ["dora_scale", "magnitude", "diff", "diff_b", "lokr_w1", "hada_w1_a", "oft_R", "weight", "lora_A", ""]
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


@dataclass
class Damage:
    """A file on its way to being damaged."""

    entries: list
    metadata: object = None
    length: int | None = None
    tail: list = field(default_factory=list)

    def encode(self):
        """A safetensors file, the header's length a lie if asked for, then spoilt byte by byte."""
        header, data = {} if self.metadata is None else {"__metadata__": self.metadata}, b""
        for name, dtype, shape, content in self.entries:
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
            data += content
        text = json.dumps(header).encode()
        raw = bytearray(struct.pack("<Q", len(text) if self.length is None else self.length) + text + data)
        for spoil in self.tail:
            spoil(raw)
        return bytes(raw)


def prefix_all(draw, file, entry):
    prefix = draw(st.sampled_from(PREFIXES))
    for other in file.entries:
        stem, end = split(other[0].removeprefix("diffusion_model."))
        other[0] = f"{prefix}{stem.replace('.', '_') if prefix.startswith('lora_') else stem}.{end}"


def prefix_one(draw, file, entry):
    entry[0] = draw(st.sampled_from(PREFIXES)) + entry[0].removeprefix("diffusion_model.")


def letters(draw, file, entry):
    at = draw(st.integers(0, max(0, len(entry[0]) - 1)))
    entry[0] = entry[0][:at] + draw(st.sampled_from(["", ".", "_", "x", "A", "1", "é", "\ud800"])) + entry[0][at + 1 :]


def ending(draw, file, entry):
    entry[0] = split(entry[0])[0] + "." + draw(st.sampled_from(ENDINGS))


def shape(draw, file, entry):
    turned = entry[2][::-1] if isinstance(entry[2], list) else entry[2]
    odd = [[], [0], [1], [2, 3, 1], [2**40, 2**40], [-1, 3], "x", None, [1.5], [True, 4]]
    entry[2] = draw(st.sampled_from([turned, *odd]))


def resize(draw, file, entry):
    size = draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
    entry[1:] = ["F32", list(size), np.full(size, 0.7, "<f4").tobytes()]


def dtype(draw, file, entry):
    entry[1] = draw(st.sampled_from(DTYPES))


def cast(draw, file, entry):
    entry[1] = draw(st.sampled_from(list(ITEM)))
    values = np.frombuffer(entry[3][: len(entry[3]) // 4 * 4], "<f4")
    with np.errstate(invalid="ignore", over="ignore"):
        entry[3] = values.astype(ITEM[entry[1]]).tobytes()


def value(draw, file, entry):
    values = np.frombuffer(entry[3][: len(entry[3]) // 4 * 4], "<f4").copy()
    if values.size:
        bad = st.sampled_from([np.nan, np.inf, -np.inf, 1e30, 0.0, -2.0])
        values[draw(st.integers(0, values.size - 1))] = draw(bad)
        entry[3] = values.tobytes()


def drop(draw, file, entry):
    file.entries.remove(entry)


def twice(draw, file, entry):
    file.entries.append([draw(st.sampled_from(["transformer.", "", "lora_unet_"])) + entry[0], *entry[1:]])


def metadata(draw, file, entry):
    peft = {"lora_adapter_metadata": '{"transformer.r": 2}'}
    file.metadata = draw(
        st.sampled_from([{"a": 1}, [], "x", {"lora_adapter_metadata": "{"}, {"lora_alpha": "9"}, peft])
    )


def length(draw, file, entry):
    file.length = draw(st.sampled_from([0, 1, 7, 2**20, 2**40, 2**63, 2**64 - 1]))


def cut(draw, file, entry):
    share = draw(st.floats(0, 1))
    file.tail.append(lambda raw: raw.__delitem__(slice(int(share * len(raw)), None)))


def flip(draw, file, entry):
    share, mask = draw(st.floats(0, 1)), draw(st.integers(1, 255))

    def spoil(raw):
        if raw:
            at = min(len(raw) - 1, int(share * len(raw)))
            raw[at] ^= mask

    file.tail.append(spoil)


def insert(draw, file, entry):
    share = draw(st.floats(0, 1))
    file.tail.append(lambda raw: raw.insert(int(share * len(raw)), 7))


FAULTS = (prefix_all, prefix_one, letters, ending, shape, resize, dtype, cast, value, drop, twice, metadata, length,
          cut, flip, insert)  # fmt: skip


@st.composite
def damaged(draw):
    """Bytes of a file with one to three faults, some of them harmless."""
    file = Damage(sound_file(draw(st.integers(0, 9))))
    for _ in range(draw(st.integers(1, 3))):
        fault = draw(st.sampled_from(FAULTS))
        fault(draw, file, draw(st.sampled_from(file.entries)))
    return file.encode()


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
        bare = re.sub(r"^(base_model\.model\.|model\.|diffusion_model\.|transformer\.|lora_unet_)*", "", stem)
        bare = re.sub(r"^(base_model_model_|model_|diffusion_model_|transformer_(?!blocks[._]))*", "", bare)
        modules.setdefault(flat[bare], {})[role] = values
    result = {}
    for name, parts in modules.items():
        assert parts.keys() in ({"a", "b"}, {"a", "b", "alpha"}, {"diff"})
        scale = parts["alpha"].item() / parts["a"].shape[0] if "alpha" in parts else 1.0
        result[name] = parts["diff"] if "diff" in parts else scale * parts["b"] @ parts["a"]
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
COUNT = 1000
TINY = np.finfo(np.float32).tiny
"""Below it fp32 has nothing; a file in fp64 may."""


@examples(COUNT)
@given(damaged())
def test_damaged_files_load_right_or_say_why(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(content)
    adapter = placement = refusal = None
    try:
        adapter = read(path)
        placement = place(adapter, MODEL)
    except UserError as error:
        refusal = error
    if refusal:
        OUTCOMES["refused"] += 1
        assert refusal.message.endswith(".")
        assert refusal.hint
        str(refusal).encode()
        return
    OUTCOMES["loaded"] += 1
    assert len(placement.placed) == placement.total > 0
    want, here = expected(path), linears(MODEL)
    assert set(adapter.deltas) == set(want)
    adapted = linears(adapt(MODEL, [(adapter, Strength())]))
    for name, delta in want.items():
        assert name not in adapted  # wrapped
        got = np.asarray(change(adapter.deltas[name], here[name].weight), np.float64)
        assert np.allclose(got, delta, rtol=1e-5, atol=1e-6 * np.abs(delta).max() + TINY)


def test_the_fuzz_above_saw_both_outcomes():
    if sum(OUTCOMES.values()) < COUNT:
        pytest.skip("runs after the fuzz")
    assert OUTCOMES["loaded"] > 0.05 * COUNT
    assert OUTCOMES["refused"] > 0.5 * COUNT


@pytest.mark.parametrize("seed", range(4))
def test_sound_files_load(tmp_path, seed):
    """The fuzz's starting points are sound."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(Damage(sound_file(seed)).encode())
    adapter = read(path)
    assert place(adapter, MODEL).summary.startswith("placed 4 of 4")
    for name, delta in expected(path).items():
        assert np.allclose(np.asarray(adapter.deltas[name].dense()), delta, rtol=1e-5)


def test_zero_dimensional_bf16(tmp_path):
    """An alpha as a bf16 scalar: 2.0 is 0x4000."""
    entries = [e for e in sound_file(0) if not e[0].endswith("alpha")]
    entries += [[f"diffusion_model.{name}.alpha", "BF16", [], b"\x00\x40"] for name in SIZES]
    path = tmp_path / "a.safetensors"
    path.write_bytes(Damage(entries).encode())
    assert {delta.scale for delta in read(path).deltas.values()} == {1.0}
    assert read_tensors(path).tensors[f"diffusion_model.{next(iter(SIZES))}.alpha"].dtype == mx.bfloat16


PEFT = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["to_q"], "rank_pattern": {"to_k": 2},
    "alpha_pattern": {"to_q": 3.0, "blocks.*to_k": 1}, "use_rslora": False, "use_dora": False, "bias": "none",
    "lora_bias": False, "fan_in_fan_out": False, "init_lora_weights": True, "modules_to_save": None,
    "base_model_name_or_path": "x", "scale": 10.0, "fine_tune_type": "lora",
    "lora_parameters": {"rank": 2, "scale": 2.0},
}  # fmt: skip


@examples(100)
@given(data=st.data())
def test_damaged_settings_are_read_or_say_why(tmp_path, data):
    """PEFT's configuration beside the file, or within its metadata, and what other programs write there."""
    file, config = Damage(sound_file(data.draw(st.integers(0, 9)))), tmp_path / "adapter_config.json"
    config.unlink(missing_ok=True)
    if data.draw(st.booleans()):
        kept = as_json(data.draw(damaged_values(PEFT)))
        config.write_bytes(data.draw(damaged_bytes(kept)) if data.draw(st.booleans()) else kept)
    else:
        own = {f"transformer.{name}": value for name, value in data.draw(damaged_values(PEFT)).items()}
        inner = json.dumps(own) if data.draw(st.booleans()) else data.draw(st.text(max_size=20))
        whole = {"lora_adapter_metadata": inner, "format": "pt", "lora_alpha": "9", "ss_network_alpha": "4",
                 "ss_network_dim": "2", "modelspec.title": "a"}  # fmt: skip
        file.metadata = data.draw(damaged_values(whole))
    path = tmp_path / "a.safetensors"
    path.write_bytes(file.encode())
    try:
        adapter = read(path)
        place(adapter, MODEL)
        str(describe_adapter_file(path))
    except UserError as error:
        str(error).encode()
        return
    for name, delta in adapter.deltas.items():
        assert np.isfinite(np.asarray(delta.dense())).all(), name
