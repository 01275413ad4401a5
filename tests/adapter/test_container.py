"""The safetensors reader and writer against hand-made bytes and the safetensors library."""

import json
import pickle
import stat
import struct

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mlx_ltxw.adapter import container
from mlx_ltxw.adapter.container import read_tensors, tensor_names, write_tensors
from mlx_ltxw.errors import UserError


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


ONE = np.float32(1).tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32])
def test_files_of_the_library(tmp_path, dtype):
    """Odd sizes put later tensors at odd offsets; a scalar has no shape."""
    given = {"a": torch.arange(3).to(dtype), "b": torch.tensor(5).to(dtype), "c": torch.ones(2, 3, 1).to(dtype)}
    save_file(given, tmp_path / "x.safetensors", {"key": "value"})
    file = read_tensors(tmp_path / "x.safetensors")
    assert file.metadata == {"key": "value"}
    assert sorted(tensor_names(tmp_path / "x.safetensors")) == ["a", "b", "c"]
    for name, tensor in given.items():
        assert str(file.tensors[name].dtype).split(".")[-1] == str(dtype).split(".")[-1]
        assert file.tensors[name].shape == tuple(tensor.shape)
        assert np.array_equal(np.asarray(file.tensors[name].astype(mx.float32)), tensor.float().numpy())


def test_written_files_open_in_the_library(tmp_path):
    path = tmp_path / "new" / "x.safetensors"
    write_tensors(path, {"a": mx.array([1.5, 2.0]).astype(mx.bfloat16), "b": mx.ones((2, 3))}, {"k": "v"})
    loaded = load_file(path)
    assert loaded["a"].dtype == torch.bfloat16
    assert loaded["a"].tolist() == [1.5, 2.0]
    assert loaded["b"].shape == (2, 3)
    assert read_tensors(path).metadata["k"] == "v"
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


def test_files_of_mlx_without_metadata(tmp_path):
    """`mx.save_safetensors` writes `"__metadata__": null`."""
    mx.save_safetensors(str(tmp_path / "x.safetensors"), {"a": mx.array([1.0, 2.0])})
    assert b'"__metadata__":null' in (tmp_path / "x.safetensors").read_bytes()
    file = read_tensors(tmp_path / "x.safetensors")
    assert file.metadata == {}
    assert file.tensors["a"].tolist() == [1.0, 2.0]


def test_an_unwritable_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="could not be written"):
        write_tensors(tmp_path / "file" / "x.safetensors", {"a": mx.ones(1)}, {})


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F81])
def test_bf16_infinities_and_nans(tmp_path, bits):
    path = write(tmp_path / "x.safetensors", {"a": entry("BF16", [2], 0, 4)}, struct.pack("<HH", 0x3F80, bits))
    with pytest.raises(UserError, match="a: holds NaN or infinite"):
        read_tensors(path)


def test_largest_bf16_is_finite(tmp_path):
    path = write(tmp_path / "x.safetensors", {"a": entry("BF16", [1], 0, 2)}, struct.pack("<H", 0x7F7F))
    assert read_tensors(path).tensors["a"].astype(mx.float32).item() == pytest.approx(3.3895e38, rel=1e-4)


def test_fp64_beyond_fp32_is_infinite(tmp_path):
    path = write(tmp_path / "x.safetensors", {"a": entry("F64", [1], 0, 8)}, struct.pack("<d", 1e300))
    with pytest.raises(UserError, match="infinite"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        (b"{ ", b"", "header is damaged"),
        (b"[]", b"", "header is no table"),
        (b"\xff\xfe", b"", "header is damaged"),
        (b"[" * 100_000, b"", "header is damaged"),
        (b'{"a": 1, "a": 2}', b"", "header is damaged"),
        (b'{"\\ud800": 1}', b"", "surrogates not allowed"),
        ({"__metadata__": {"a": 1}}, b"", "metadata"),
        ({"__metadata__": ["a"]}, b"", "metadata"),
        ({"__metadata__": "a"}, b"", "metadata"),
        ({"a": 5}, b"", "a: its entry in the header is damaged"),
        ({"a": {"dtype": "F32", "shape": [1]}}, ONE, "entry in the header"),
        ({"a": entry("F32", [-1], 0, 4)}, ONE, "entry in the header"),
        ({"a": entry("F32", [1.0], 0, 4)}, ONE, "entry in the header"),
        ({"a": entry("F32", [True], 0, 4)}, ONE, "entry in the header"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, ONE, "entry in the header"),
        ({"a": entry(["F32"], [1], 0, 4)}, ONE, "dtype"),
        ({"a": entry("F8_E8M0", [4], 0, 4)}, ONE, "dtype F8_E8M0"),
        ({"a": entry("F32", [2], 0, 4)}, ONE, r"4 bytes do not hold F32 \[2\]"),
        ({"a": entry("F32", [1], 4, 0)}, ONE, "-4 bytes"),
        ({"a": entry("F32", [2], 0, 8)}, ONE, "is truncated"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 2, 6)}, ONE + b"\0\0", "overlap or leave gaps"),
        ({"a": entry("F32", [1], 4, 8)}, ONE + ONE, "overlap or leave gaps"),
        ({"a": entry("F32", [1], 0, 4)}, ONE + b"\0", "1 bytes follow its last"),
        ({"a": entry("F32", [0], 0, 0)}, b"\0", "1 bytes follow its last"),
    ],
)
def test_unsound_bytes(tmp_path, header, data, words):
    with pytest.raises(UserError, match=words):
        read_tensors(write(tmp_path / "x.safetensors", header, data))


@pytest.mark.parametrize("length", [0, 1, 100, 2**40, 2**64 - 1])
def test_a_lying_length(tmp_path, length):
    with pytest.raises(UserError, match="header"):
        read_tensors(write(tmp_path / "x.safetensors", {"a": entry("F32", [1], 0, 4)}, ONE, length))


def test_files_that_are_none(tmp_path):
    for content in (b"", b"1234567"):
        (tmp_path / "short.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="too short"):
            read_tensors(tmp_path / "short.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        read_tensors(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        read_tensors(tmp_path)


def test_every_bad_tensor_is_listed(tmp_path):
    header = {f"t{i:02}": entry("U8", [1], i, i + 1) for i in range(11)}
    with pytest.raises(UserError, match=r"t00: .*t07: .*and 3 more"):
        read_tensors(write(tmp_path / "x.safetensors", header, bytes(11)))


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 640 + 65536])
def test_a_header_whose_length_reads_like_a_pickles_first_bytes(tmp_path, length):
    """0x0280 is 80 02 on the disk, the first two bytes of a pickle of protocol 2."""
    text = json.dumps({"a": entry("F32", [1], 0, 4)}).encode().ljust(length)
    assert read_tensors(write(tmp_path / "x.safetensors", text, ONE)).tensors["a"].tolist() == [1.0]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_are_refused(tmp_path, protocol):
    path = tmp_path / "x.safetensors"
    path.write_bytes(pickle.dumps({"a": list(range(200))}, protocol))
    with pytest.raises(UserError, match="a Python pickle, not safetensors"):
        read_tensors(path)
    with pytest.raises(UserError, match=r"a \.pt file"):
        tensor_names(write(tmp_path / "x.pt", {"a": entry("F32", [1], 0, 4)}, ONE))


def test_no_adapter_has_so_many_tensors(tmp_path):
    header = {f"t{i}": entry("F32", [0], 0, 0) for i in range(50_001)}
    with pytest.raises(UserError, match="50,001 tensors"):
        read_tensors(write(tmp_path / "x.safetensors", header))


def test_as_many_tensors_as_are_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "_MOST_TENSORS", 3)
    for count in (3, 4):
        path = write(tmp_path / f"{count}.safetensors", {f"t{i}": entry("F32", [0], 0, 0) for i in range(count)})
        if count == 3:
            assert len(read_tensors(path).tensors) == 3
        else:
            with pytest.raises(UserError, match="4 tensors"):
                read_tensors(path)


def test_eight_bit_floats(tmp_path):
    """Every finite value of both formats, worked out from sign, exponent and mantissa."""
    bits = np.arange(256)
    sign = np.where(bits > 127, -1.0, 1.0)
    e4, m3 = bits >> 3 & 15, (bits & 7) / 8
    e4m3 = sign * np.where(e4 == 0, m3 * 2.0**-6, (1 + m3) * 2.0 ** (e4 - 7.0))
    e5, m2 = bits >> 2 & 31, (bits & 3) / 4
    e5m2 = sign * np.where(e5 == 0, m2 * 2.0**-14, (1 + m2) * 2.0 ** (e5 - 15.0))
    for dtype, values, finite in (("F8_E4M3", e4m3, bits & 127 != 127), ("F8_E5M2", e5m2, e5 < 31)):
        raw = bits[finite].astype(np.uint8).tobytes()
        header = json.dumps({"x": {"dtype": dtype, "shape": [len(raw)], "data_offsets": [0, len(raw)]}}).encode()
        path = tmp_path / f"{dtype}.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header + raw)
        np.testing.assert_array_equal(np.asarray(read_tensors(path).tensors["x"], np.float64), values[finite])
