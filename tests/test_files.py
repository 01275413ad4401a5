"""Whole files or none, on full disks and under interruption."""

import errno
import os
import stat
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mlx_ltxw import files, paths
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import check_writable, replacing, write_bytes
from mlx_ltxw.media.audio import write_wav
from mlx_ltxw.media.mp4 import open_mp4, write_mp4
from mlx_ltxw.printing import printable
from mlx_ltxw.takes.unfinished import lock_beside


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


def test_a_disk_that_lets_nothing_go_is_one_sentence(tmp_path, monkeypatch):
    """It becomes read-only in the middle of a file: what was begun cannot be removed either."""

    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files, "_flush", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(UserError, match=r"a\.bin could not be written: Read-only file system\. That disk is read-only"):
        write_bytes(tmp_path / "a.bin", b"new")
    monkeypatch.undo()
    write_bytes(tmp_path / "b.bin", b"new")  # of the same process, when the disk takes something again
    assert [path.name for path in tmp_path.iterdir()] == ["b.bin"]


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


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from mlx_ltxw.files import replacing
    with replacing(Path(sys.argv[1]) / "a.bin") as partial:
        partial.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path):
    """And only that: a part whose writer lives stays, and so do files of other names."""
    other = tmp_path / ".other.part"
    other.write_bytes(b"")
    (tmp_path / "below").mkdir()
    for folder in (tmp_path, tmp_path / "below"):
        subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(folder)], check=False)
    assert len(list(tmp_path.rglob(".mlx-ltxw-*.part"))) == 2
    files.sweep(tmp_path, deep=False)
    assert len(list(tmp_path.rglob(".mlx-ltxw-*.part"))) == 1
    with replacing(tmp_path / "b.bin") as partial:
        partial.write_bytes(b"being written")
        files.sweep(tmp_path, deep=True)
        assert list(tmp_path.rglob(".mlx-ltxw-*.part")) == [partial]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.part", "b.bin", "below"]


def test_the_first_write_into_a_folder_sweeps_it(tmp_path):
    subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], check=False)
    write_bytes(tmp_path / "b.bin", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["b.bin"]


def test_the_lock_of_a_killed_run_is_swept_and_that_of_a_living_one_stays(tmp_path):
    held = """
        import os, signal, sys
        from pathlib import Path
        from mlx_ltxw.files import locked_folder
        from mlx_ltxw.takes.unfinished import lock_beside

        output = Path(sys.argv[1]) / ("a" * 251 + ".mp4")
        with locked_folder(output, "run", lock_beside(output)):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(held), str(tmp_path)], check=False)
    assert len([*tmp_path.iterdir()]) == 1
    living = lock_beside(tmp_path / "b.mp4")
    with files.locked_folder(tmp_path / "b.mp4", "run", living):
        files.sweep(tmp_path)
        assert [*tmp_path.iterdir()] == [living]
    assert not [*tmp_path.iterdir()]


def test_permissions_are_the_umasks(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a.bin", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o640


def test_arrays_on_a_full_disk(tmp_path, monkeypatch):
    """MLX says `[write]` and no reason; `/dev/full` is a disk that is."""
    mx = pytest.importorskip("mlx.core")
    from mlx_ltxw.weights.saving import save_arrays

    with pytest.raises(UserError, match="No space left") as caught, files.write_errors(tmp_path / "x"):
        raise RuntimeError("[write] Unable to write 3145822 bytes to file.")
    assert "Free some space" in caught.value.hint
    if Path("/dev/full").exists():
        monkeypatch.setattr(files, "_begin", lambda folder: (Path("/dev/full"), os.open("/dev/null", os.O_RDONLY)))
        monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(UserError, match=r"a\.safetensors could not be written: No space left on device"):
            save_arrays(tmp_path / "a.safetensors", {"a": mx.zeros(8)}, {})


HOLDS = """
    import sys
    from pathlib import Path
    from mlx_ltxw.files import locked_folder
    with locked_folder(Path(sys.argv[1]), "training run"):
        print("held", flush=True)
        sys.stdin.readline()
"""


def test_a_locked_folder_says_who_holds_it(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", textwrap.dedent(HOLDS), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        said = f"in use by a training run, process {first.pid} on "
        with pytest.raises(UserError, match=said), files.locked_folder(folder, "training run"):
            pass
        first.communicate("\n")
    with files.locked_folder(folder, "training run"):
        assert list(folder.iterdir()) == [folder / files.LOCK]
    assert not list(folder.iterdir())
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout.readline() == "held\n"
        killed.kill()
    with files.locked_folder(folder, "training run"):
        pass
    assert not list(folder.iterdir())


def interrupted_at(number, make, path):
    """Enters `make(path)`, with Ctrl-C before the line of that number on the way; whether it came so far."""
    before, left = sys.gettrace(), number

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename != files.__file__:
            return None
        left -= event == "line"
        if left < 0 and event == "line":
            left = sys.maxsize  # once
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        with make(path):
            sys.settrace(before)
        return False
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("what", ["file", "lock"])
def test_an_interruption_holds_nothing_back(tmp_path, what):
    """Ctrl-C before any line of what begins a file or takes a lock: the same process can do it again, and no handle is
    open for ever, but one that had no lock and no name yet."""

    @contextmanager
    def lock(path):
        with files.locked_folder(path, "training run"):
            yield

    @contextmanager
    def file(path):
        with replacing(path / "a.bin") as partial:
            partial.write_bytes(b"new")
            yield

    make, number = {"file": file, "lock": lock}[what], 0
    handles = len(os.listdir("/dev/fd"))
    while interrupted_at(number, make, tmp_path):
        with make(tmp_path):
            pass
        assert [path.name for path in tmp_path.iterdir()] == (["a.bin"] if what == "file" else [])
        number += 1
    assert number > 12
    assert len(os.listdir("/dev/fd")) <= handles + 1


@pytest.mark.parametrize(
    ("code", "hint"), [(errno.EIO, "disk is connected and sound"), (errno.EACCES, "its permissions")]
)
def test_a_file_that_the_system_does_not_give(tmp_path, monkeypatch, code, hint):
    def refused(*_, **__):
        raise OSError(code, os.strerror(code))

    (tmp_path / "a.json").write_text("{}")
    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UserError, match=rf"a\.json cannot be read: .*{hint}"):
        files.read_text(tmp_path / "a.json")


def test_only_plain_files_of_a_bounded_size_are_read(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, Path("/dev/zero")):
        with pytest.raises(UserError, match="not a file"):
            files.read_bytes(path)
    with pytest.raises(UserError, match="There is no file"):
        files.read_bytes(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        files.read_bytes(tmp_path / ("x" * 300))
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="larger than the 1,000 bytes"):
        files.read_bytes(large, 1000)


def test_texts(tmp_path):
    path = tmp_path / "text"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        path.write_bytes("hush …".encode(encoding))
        assert files.read_text(path) == "hush …"
    path.write_bytes("hush …".encode("cp1252"))
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 5\)"):
        files.read_text(path)
    path.write_bytes(b"hush\0 hush")
    with pytest.raises(UserError, match="holds a zero byte"):
        files.read_text(path)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", "a\0b", "..", "a\\..\\b", 3, None])
def test_a_list_names_files_of_its_own_folder_only(tmp_path, name):
    with pytest.raises(UserError, match="no file in it"):
        paths.inside(tmp_path, name)
    assert paths.inside(tmp_path, "a/b.json") == tmp_path / "a" / "b.json"


@pytest.mark.parametrize("text", ["", "x" * 5000, "a/" * 3000, "a\0b", "d/" + "x" * 256, "\ud800"])
def test_names_that_no_file_has(text):
    with pytest.raises(UserError, match="cannot be the name of a file"):
        paths.local_path(text)


def test_a_home_that_nobody_has():
    assert paths.local_path("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")


def test_control_characters_are_made_visible():
    assert printable("a\x1b[31m\u202e\ud800\n日本 é 👩\u200d🦰") == "a\\x1b[31m\\u202e\\ud800\\n日本 é 👩\u200d🦰"
    error = UserError("No\x1b[2J file.", "Look\nthere.")
    assert str(error) == "No\\x1b[2J file. Look\nthere."
