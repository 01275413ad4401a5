"""Whole files or none, on full disks and under interruption."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import write_wav
from mlx_ltxw.media.files import check_writable, replacing, write_bytes
from mlx_ltxw.media.mp4 import open_mp4, write_mp4


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def interrupted():
        with replacing(path) as partial:
            partial.write_bytes(b"ne")
            assert path.read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_bytes() == b"old"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["missing/a.wav", "file/a.wav", "folder"])
def test_an_unwritable_name_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        check_writable(tmp_path / name)
    with pytest.raises(UserError, match="cannot be written"):
        write_wav(tmp_path / name, np.zeros((10, 2)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_an_interrupted_mp4_leaves_nothing(tmp_path):
    def decoder():
        yield np.zeros((9, 64, 64, 3), np.uint8)
        raise RuntimeError("decoder")

    with pytest.raises(RuntimeError, match="decoder"):
        write_mp4(tmp_path / "a.mp4", decoder(), 24, np.zeros((9, 2)))
    assert not list(tmp_path.iterdir())


def test_an_mp4_without_its_sound_is_a_fault(tmp_path):
    with pytest.raises(ValueError, match="sound"), open_mp4(tmp_path / "a.mp4", 64, 64, 24) as clip:
        clip.frames(np.zeros((9, 64, 64, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    """A limit on file size stands for the full disk: writing fails in the same calls, with its own error number."""
    script = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from mlx_ltxw.errors import UserError
        from mlx_ltxw.media.audio import write_wav
        from mlx_ltxw.media.mp4 import write_mp4
        from mlx_ltxw.media.spectrogram import write_png
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        folder = Path(sys.argv[1])
        draw = np.random.default_rng(0)
        frames = draw.integers(0, 255, (30, 64, 64, 3), dtype=np.uint8)
        sound = draw.uniform(-1, 1, (48000, 2))
        for write in (
            lambda: write_wav(folder / "a.wav", sound),
            lambda: write_png(folder / "a.png", frames.reshape(-1, 64, 3)),
            lambda: write_mp4(folder / "a.mp4", [frames], 24, sound),
            lambda: write_mp4(folder / "b.mp4", [frames[:1] // 255], 24, np.zeros((9, 2)), metadata={"a": "b" * 30000}),
        ):
            try:
                write()
            except UserError as error:
                print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 4
    assert all("could not be written: File too large." in line and "another output folder" in line for line in lines)
    assert not list(tmp_path.iterdir())
