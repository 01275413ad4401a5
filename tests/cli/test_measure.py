"""The measure command: its table, its JSON lines, and files that cannot be read."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from mlx_ltxw.cli.measure import measure, strip_of
from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import write_wav
from mlx_ltxw.media.containers import probe
from tests.media.signals import RATE, needs_espeak, speak

pytestmark = needs_espeak


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, voice, *options in (("voice", "m3"), ("soft", "m3", "-a", "25"), ("whisper", "whisper")):
        speak(folder / f"{name}.wav", voice, "close your eyes and listen to the rain", *options)
    write_wav(folder / "silence.wav", np.zeros(RATE), RATE)
    return [str(folder / f"{name}.wav") for name in ("voice", "soft", "whisper", "silence")]


def test_one_object_a_file(files):
    result = CliRunner().invoke(measure, [*files, "--json"])
    assert result.exit_code == 0
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["file"] for one in found] == files
    assert [one["register"] for one in found] == ["normal", "soft", "whispering", "no speech"]
    for one in found:
        assert {"file", "register", "lufs", "true_peak", "voiced", "hnr", "confidence", "f0", "tilt"} <= set(one)
        assert {"centroid", "rate", "duration", "rests_on", "by_second", "notes"} <= set(one)
        assert len(one["by_second"]) == -(-one["duration"] // 1)
        assert "reference" not in one
        assert "difference" not in one
    assert 90 < found[0]["f0"] < 130
    assert (found[3]["lufs"], found[3]["f0"]) == (-70.0, None)


def test_a_table_with_differences(files):
    result = CliRunner().invoke(measure, [*files[:2], "--reference", files[0]])
    assert result.exit_code == 0
    head, *rows = result.stdout.splitlines()
    assert head.split()[:4] == ["file", "register", "LUFS", "dBTP"]
    assert rows[0].split()[:2] == [files[0], "normal"]
    assert re.fullmatch(r" +n+·? +0\.0 dB below the reference", rows[1])
    assert rows[2].split()[:4] == ["vs", "reference", "+0.0", "+0.0"]
    assert rows[3].split()[:2] == [files[1], "soft"]
    assert re.fullmatch(r" +s+·? +1\d\.\d dB below the reference", rows[4])
    assert rows[5].split()[:2] == ["vs", "reference"]
    assert len({len(row) for row in (head, *rows[::3], *rows[2::3])}) == 1  # the columns are aligned
    lines = CliRunner().invoke(measure, [files[1], "--json", "--reference", files[0]]).stdout
    assert json.loads(lines)["difference"]["lufs"] == pytest.approx(-12.0, abs=1.0)


def test_a_long_clips_strip_is_condensed():
    seconds = ["normal"] * 300 + ["no speech"] * 290 + ["whispering"] * 10
    assert strip_of(seconds) == "n" * 30 + "·" * 29 + "w (10 s each)"
    assert strip_of(["soft", "no speech", "whispering"]) == "s·w"


def test_a_picture_of_two_clips(files, tmp_path):
    name = str(tmp_path / "both.png")
    result = CliRunner().invoke(measure, [files[0], files[2], "--picture", name])
    assert result.exit_code == 0
    one = CliRunner().invoke(measure, [files[0], "--picture", str(tmp_path / "one.png")])
    assert one.exit_code == 0
    assert probe(name).height == 2 * probe(tmp_path / "one.png").height
    assert "exists already" in CliRunner().invoke(measure, [files[0], "--picture", name]).exception.message
    assert CliRunner().invoke(measure, [files[0], "--picture", name, "--overwrite"]).exit_code == 0
    assert "written to both.jpg" in CliRunner().invoke(measure, [files[0], "--picture", "both.jpg"]).exception.message


def test_a_picture_without_a_name(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(measure, [files[0], files[1], "--picture"]).exit_code == 0
    assert (tmp_path / "spectrograms.png").exists()


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
