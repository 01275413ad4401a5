"""Folders for a while: gone afterwards, also after a process that was killed."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from mlx_ltxw.scratch import sweep_folders, temporary_folder

KILLED = """
import os, signal
from mlx_ltxw.scratch import temporary_folder
with temporary_folder() as folder:
    (folder / "a.mp4").write_bytes(b"half a clip")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def kill(where):
    done = subprocess.run([sys.executable, "-c", KILLED], env=os.environ | {"TMPDIR": str(where)}, check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_process_left_goes_with_the_next(temporary):
    kill(temporary)
    (left,) = temporary.iterdir()
    assert (left / "a.mp4").read_bytes() == b"half a clip"
    with temporary_folder() as folder:
        assert list(temporary.iterdir()) == [folder] != [left]
        assert list(folder.iterdir()) == []
    assert list(temporary.iterdir()) == []


def test_a_living_ones_folder_and_all_others_stay(temporary):
    own = temporary / "of the user"
    for other in (own, temporary / ".mlx-ltxw-cache", temporary / "mlx-ltxw-clips"):
        other.mkdir()
        (other / "a.mp4").write_bytes(b"a clip")
    (temporary / ".mlx-ltxw-file.part").write_bytes(b"")
    (temporary / ".mlx-ltxw-link.part").symlink_to(own)
    before = sorted(temporary.rglob("*"))
    with temporary_folder() as folder:
        (folder / "b.mp4").write_bytes(b"being made")
        sweep_folders(temporary)
        assert sorted({*temporary.rglob("*")} - {*before}) == [folder, folder / "b.mp4"]
    assert sorted(temporary.rglob("*")) == before


def test_a_fault_removes_it_too(temporary):
    with pytest.raises(IsADirectoryError), temporary_folder() as folder:
        folder.read_bytes()
    assert list(temporary.iterdir()) == []
