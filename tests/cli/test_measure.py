"""The measure command: its table, its JSON lines, and files that cannot be read."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from mlx_ltxw.cli.measure import measure
from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import write_wav
from tests.media.signals import RATE, noise, vowel


@pytest.fixture
def files(tmp_path):
    voice = vowel(np.full(2 * RATE, 120.0))
    write_wav(tmp_path / "voice.wav", 2 * voice, RATE)
    write_wav(tmp_path / "soft.wav", 0.2 * voice, RATE)
    write_wav(tmp_path / "whisper.wav", noise(2.0), RATE)
    write_wav(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    return [str(tmp_path / f"{name}.wav") for name in ("voice", "soft", "whisper", "silence")]


def test_one_object_a_file(files):
    result = CliRunner().invoke(measure, [*files, "--json"])
    assert result.exit_code == 0
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["file"] for one in found] == files
    assert [one["register"] for one in found] == ["normal", "soft", "whispering", None]
    for one in found:
        assert {"file", "register", "lufs", "true_peak", "voiced", "hnr", "confidence", "f0", "tilt"} <= set(one)
        assert {"centroid", "rate", "duration"} <= set(one)
        assert "difference" not in one
    assert found[0]["f0"] == pytest.approx(120, rel=0.01)
    assert (found[3]["lufs"], found[3]["f0"]) == (-70.0, None)


def test_a_table_with_differences(files):
    result = CliRunner().invoke(measure, [*files[:2], "--reference", files[0]])
    assert result.exit_code == 0
    head, *rows = result.stdout.splitlines()
    assert head.split()[:4] == ["file", "register", "LUFS", "dBTP"]
    assert rows[0].split()[:2] == [files[0], "normal"]
    assert rows[1].split()[:4] == ["vs", "reference", "+0.0", "+0.0"]
    assert rows[2].split()[:2] == [files[1], "soft"]
    assert rows[3].split()[:4] == ["vs", "reference", "-20.0", "-20.0"]
    lines = CliRunner().invoke(measure, [files[1], "--json", "--reference", files[0]]).stdout
    assert json.loads(lines)["difference"]["lufs"] == pytest.approx(-20.0, abs=0.1)


def test_what_can_be_read_is_printed_before_what_cannot_is_named(files, tmp_path):
    missing, broken = str(tmp_path / "missing.wav"), tmp_path / "broken.wav"
    result = CliRunner().invoke(measure, [missing, files[0], "--json"])
    assert json.loads(result.stdout)["register"] == "normal"
    assert isinstance(result.exception, UserError)
    assert result.exception.message == f"{missing} does not exist."
    broken.write_text("no sound")
    result = CliRunner().invoke(measure, [missing, str(broken), files[0]])
    assert "normal" in result.stdout
    assert result.exception.message.startswith("2 of 3 files could not be measured:")
    assert missing in result.exception.message
    assert str(broken) in result.exception.message


def test_a_bad_reference_stops_at_once(files, tmp_path):
    result = CliRunner().invoke(measure, [files[0], "--reference", str(tmp_path / "none.wav")])
    assert isinstance(result.exception, UserError)
    assert not result.stdout


def test_as_a_program(files, tmp_path):
    """Through the installed entry point: figures on stdout, the error on stderr, exit 2."""
    command = [
        sys.executable,
        "-c",
        "from mlx_ltxw.cli import main; main()",
        "measure",
        files[2],
        str(tmp_path / "x.wav"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "whispering" in done.stdout
    assert done.stderr.startswith("Error: ")
    assert "x.wav does not exist." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_is_needed():
    assert CliRunner().invoke(measure, []).exit_code == 2
