"""Bytes of files, on disks that give a part of them, or nothing: always one sentence, and the process stays."""

import errno
import os
import re

import numpy as np
import pytest

from mlx_ltxw.adapter.container import read_tensors
from mlx_ltxw.errors import UserError
from mlx_ltxw.weights import stored
from tests.adapter.helpers import save
from tests.convert.made import ROOT


def test_what_is_asked_for_comes_whole_in_however_many_reads(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(bytes(range(200)))
    real = os.preadv
    monkeypatch.setattr(stored.os, "preadv", lambda handle, into, at: real(handle, [into[0][:7]], at))
    with stored.opened(path) as read:
        assert read(10, 50).tobytes() == bytes(range(10, 60))
        assert read(200, 0).tobytes() == b""
        with pytest.raises(UserError, match=r"a can no longer be read .it has become shorter"):
            read(190, 11)


def test_a_file_that_is_gone_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"can no longer be read .No such file"), stored.opened(tmp_path / "a"):
        pass


def test_a_read_error_in_the_middle_of_an_adapter_is_one_sentence(tmp_path, monkeypatch):
    path = save(tmp_path / "a.safetensors", {name: np.ones((4, 4), np.float32) for name in "abc"})
    real, reads = os.preadv, []

    def preadv(handle, buffers, offset):
        reads.append(offset)
        if len(reads) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(handle, buffers, offset)

    monkeypatch.setattr(stored.os, "preadv", preadv)
    with pytest.raises(UserError, match=r"a\.safetensors can no longer be read .Input/output error"):
        read_tensors(path)


def test_nothing_maps_a_file():
    """A disk that does not give a mapped page ends the process by a signal (SIGBUS), without a word."""
    files = [path for folder in ("mlx_ltxw", "convert") for path in (ROOT / folder).rglob("*.py")]
    assert [path.name for path in files if re.search(r"\bmemmap\b|\bmmap\b|mmap_mode", path.read_text())] == []
