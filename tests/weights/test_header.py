"""safetensors headers, against files that the safetensors library writes."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_ltxw.errors import UserError
from mlx_ltxw.weights import header as header_module
from mlx_ltxw.weights.header import known_header, read_header
from tests.convert.made import read_file, write_file


def saved(tmp_path):
    arrays = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.ones(5, np.uint8),
        "c": np.zeros((0, 4)),
    }
    path = tmp_path / "x.safetensors"
    save_file(arrays, path, metadata={"config": "{}"})
    return path, arrays


def test_reads_what_the_library_writes(tmp_path):
    path, arrays = saved(tmp_path)
    header = read_header(path)
    header.check_complete()
    assert header.metadata == {"config": "{}"}
    assert header.length == header.present == path.stat().st_size
    raw = path.read_bytes()
    for name, array in arrays.items():
        tensor = header.tensors[name]
        assert tensor.shape == array.shape
        assert raw[tensor.start : tensor.stop] == array.tobytes()


def test_a_known_header_is_read_again_when_the_file_is_another(tmp_path, monkeypatch):
    parsed, parse = [], header_module.parse_header
    monkeypatch.setattr(header_module, "parse_header", lambda path, *a: (parsed.append(path), parse(path, *a))[1])
    path, _ = saved(tmp_path)
    for _ in range(3):
        assert known_header(path).tensors.keys() == {"a.weight", "b", "c"}
    assert parsed == [path]
    save_file({"d": np.ones(2)}, path)
    assert known_header(path).tensors.keys() == {"d"}
    other = tmp_path / "other"
    save_file({"d": np.ones(2)}, other)
    os.replace(other, path)
    known_header(path)
    assert parsed == [path] * 3
    path.unlink()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        known_header(path)


def test_data_that_is_cut(tmp_path):
    path, _ = saved(tmp_path)
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    header = read_header(path)  # the header itself is there
    with pytest.raises(UserError, match=f"truncated: {whole - 1:,} of {whole:,} bytes"):
        header.check_complete()


def test_header_that_is_cut(tmp_path):
    path, _ = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="ends inside its header"):
        read_header(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(dtype="Q4"),
        lambda entry: entry.update(shape=[2, 4]),
        lambda entry: entry.update(shape=[-2, -3]),
        lambda entry: entry.update(data_offsets=[0, 23]),
        lambda entry: entry.update(data_offsets=[8, 32]),
        lambda entry: entry.pop("shape"),
        lambda entry: entry.update(data_offsets="all"),
    ],
)
def test_entries_that_contradict_one_another(tmp_path, change):
    path, _ = saved(tmp_path)
    header, data = read_file(path)
    change(header["a.weight"])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_header(write_file(path, header, data))


@pytest.mark.parametrize("raw", [b"[]", b"{", b"null", b'{"a": 3}', b'{"a": {"dtype": "F32"}}', b"\xff\xfe"])
def test_headers_that_do_not_parse(tmp_path, raw):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_header(path)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_header(tmp_path / "nothing.safetensors")


def test_real_sizes_need_no_memory(tmp_path):
    """A terabyte's header: only offsets are computed."""
    entry = {"dtype": "BF16", "shape": [2**19, 2**20], "data_offsets": [0, 2**40]}
    raw = json.dumps({"huge": entry}).encode()
    path = tmp_path / "huge.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    assert read_header(path).tensors["huge"].elements == 2**39


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"__metadata__": [1]}', "metadata is not a table"),
        (b'{"__metadata__": {"a": null}}', "metadata is not a table"),
        (b'{"__metadata__": 3}', "metadata is not a table"),
        (b'{"__metadata__": {"a": "\\ud800"}}', "metadata is damaged .a text holds half a character"),
        (b'{"a": {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 4]}}', "entry in the header"),
        (b'{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 4]}}', "Infinity is no JSON number"),
        (b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 4]}}', "number is too long"),
        (b'{"a": {"dtype": "F32", "shape": [' + b"2," * 4000 + b'2], "data_offsets": [0, 4]}}', "entry in the header"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": 1, "a": 1}', "occurs twice"),
        (b'{"\\ud800": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}', "surrogates not allowed"),
        (b'{"\\u001b[2J": 3}', r"\\x1b\[2J: its entry"),
    ],
)
def test_hostile_headers(tmp_path, raw, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    with pytest.raises(UserError, match=words):
        read_header(path)


def test_no_metadata_is_none(tmp_path):
    """`mx.save_safetensors` writes null."""
    path = tmp_path / "x.safetensors"
    raw = b'{"__metadata__": null}'
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    assert read_header(path).metadata == {}


def test_bytes_behind_the_last_tensor(tmp_path):
    path, _ = saved(tmp_path)
    path.write_bytes(path.read_bytes() + b"xy")
    with pytest.raises(UserError, match="2 bytes follow its last tensor"):
        read_header(path).check_complete()


def test_what_is_no_plain_file(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="not a plain file"):
        read_header(tmp_path / "x.safetensors")
