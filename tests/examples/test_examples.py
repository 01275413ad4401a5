"""The examples run as they stand, from a folder of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, folder, *arguments):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_clip(tmp_path):
    lines = run("one_clip.py", tmp_path).splitlines()
    assert lines[0] == "(97, 128, 128, 3) uint8"
    assert lines[1].endswith(", 2) 48000")
    assert lines[2] == "whispering"
    assert (tmp_path / lines[3]).stat().st_size > 10_000


def test_manners_and_measuring_their_folder(tmp_path):
    lines = run("manners.py", tmp_path).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        str(Path("manners") / name) for name in ("normal.wav", "soft.wav", "whispering.wav")
    ]
    registers = [line.partition(": ")[2].partition(",")[0] for line in lines]
    assert registers == ["normal", "soft", "whispering"]
    (tmp_path / "manners" / "broken.wav").write_bytes(b"RIFF")
    measured = run("measure_folder.py", tmp_path, "manners").splitlines()
    assert len(measured) == 4
    assert measured[0].startswith("broken.wav")
    assert "whispering" in measured[3].removeprefix("whispering.wav")


def test_takes(tmp_path):
    lines = run("takes.py", tmp_path).splitlines()
    names = ("whispering.wav", "soft.wav", "normal.wav", "whispering-seed=+1.wav")
    assert [line.partition(":")[0] for line in lines] == [str(Path("takes") / name) for name in names]
    registers = [line.partition(": ")[2].partition(",")[0] for line in lines]
    assert registers == ["whispering", "soft", "normal", "whispering"]


def test_own_progress(tmp_path):
    printed = run("own_progress.py", tmp_path)
    assert printed.count("seed 2 [") == 5
    assert "seed 1 [#####] sigma" in printed
    assert list(tmp_path.iterdir()) == []


def test_training(tmp_path):
    printed = run("training.py", tmp_path)
    assert "step 3" in printed
    assert (tmp_path / "training" / "run" / "adapter.safetensors").is_file()
    assert "rank        4" in printed


def test_every_example_is_run_here():
    tested = {"one_clip.py", "manners.py", "takes.py", "own_progress.py", "training.py", "measure_folder.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_says_how_to_run_it(path):
    assert f"python examples/{path.name}" in path.read_text()
